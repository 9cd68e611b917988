"""Arguments of the training scripts: a YAML recipe, flags, or both."""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Union, get_args, get_origin, get_type_hints

import yaml

from examples.baselines.catalog import ARCHITECTURES
from examples.data.arguments import DataArguments
from examples.errors import InputError, refuse_unknown_keys, suggest
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from transformers import TrainingArguments

RECIPES = Path(__file__).parents[1] / "recipes"
ENDINGS = (".yaml", ".yml")
LOWEST_NUMBERS = {
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "save_total_limit": 1,
    "seed": 0,
}


@dataclass
class ModelArguments:
    """What to train."""

    _argument_group_name: ClassVar[str] = "model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "AiT checkpoint to fine-tune, Hub id or folder. Default: train from scratch."}
    )
    size: str | None = field(default=None, metadata={"help": "Paper size to train from scratch: small, medium, base."})
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of AiTConfig, as a mapping in a recipe or as JSON on the command line."},
    )
    architecture: str = field(
        default="ait",
        metadata={
            "help": "What to build from `model_config`: "
            + ", ".join(f"{name} ({architecture.description})" for name, architecture in ARCHITECTURES.items())
            + "."
        },
    )
    baseline_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of the baselines' own configurations: {architecture: {field: value}}, or as JSON."},
    )
    match_parameters: bool = field(
        default=True,
        metadata={"help": "Choose the width of a baseline's MLP so that it has as many parameters as the AiT."},
    )
    reset_memory: bool = field(
        default=False, metadata={"help": "Start every epoch with the initial memories (the paper's ablation)."}
    )

    def __post_init__(self):
        for name in ("model_config", "baseline_config"):
            fields = getattr(self, name)
            if isinstance(fields, str):
                try:
                    fields = json.loads(fields)
                except json.JSONDecodeError as error:
                    raise InputError(f"`{name}` is not JSON ({error}): {fields}") from None
            if fields is not None and not isinstance(fields, dict):
                raise InputError(f"`{name}` must be a mapping of fields, but got {fields!r}.")
            setattr(self, name, fields or {})
        for architecture, fields in self.baseline_config.items():  # type: ignore[union-attr]  # parsed above
            if not isinstance(fields, dict):
                raise InputError(f"`baseline_config` of {architecture!r} must be a mapping, but got {fields!r}.")
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"There is no architecture {self.architecture!r}.{suggest(self.architecture, ARCHITECTURES)} Known: "
                f"{', '.join(ARCHITECTURES)}."
            )
        if self.model_config:
            self.check_model_config()

    def check_model_config(self) -> None:
        """Raise an `InputError` for fields that an `AiTConfig` does not have."""
        # Late: they import torch.
        from transformers import PreTrainedConfig

        from modeling_ait import AiTConfig

        inherited = {f.name for f in dataclasses.fields(PreTrainedConfig)}
        known = {f.name for f in dataclasses.fields(AiTConfig)} - inherited | {"problem_type", "attn_implementation"}
        refuse_unknown_keys(self.model_config or {}, known, "`model_config`")


@dataclass
class RunArguments:
    """How to deal with what is there already, and what to show."""

    _argument_group_name: ClassVar[str] = "run"

    restart: bool = field(default=False, metadata={"help": "Start anew where an unfinished run could be resumed."})
    verbose: bool = field(
        default=False, metadata={"help": "Show every log of the Trainer, and the bars and warnings of the libraries."}
    )


OWN_TYPES: tuple[type, ...] = (DataArguments, ModelArguments, RunArguments)
OF_TRAINER = """\
The arguments of transformers' Trainer are flags and keys of a recipe as well; `--help_trainer` lists them. Most used:
  --output_dir, --num_train_epochs, --max_steps, --per_device_train_batch_size, --learning_rate, --weight_decay,
  --lr_scheduler_type, --warmup_steps, --eval_strategy, --save_strategy, --save_total_limit, --seed, --bf16, --use_cpu,
  --dataloader_num_workers, --push_to_hub, --hub_model_id
"""


def read_recipe(path: str) -> dict[str, Any]:
    """Read a YAML recipe into a dictionary."""
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = sorted(recipe.name for recipe in RECIPES.glob("*.yaml"))
        hint = suggest(Path(path).stem, [recipe.removesuffix(".yaml") for recipe in shipped])
        raise InputError(
            f"There is no recipe {path!r}.{hint} Shipped in examples/recipes/: {', '.join(shipped)}."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"The recipe {path!r} is no text in UTF-8: {error}.") from None
    except OSError as error:
        raise InputError(f"The recipe {path!r} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {path!r} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        kind = "empty" if recipe is None else f"a {type(recipe).__name__}"
        raise InputError(f"The recipe {path!r} must be a mapping of arguments, such as `seed: 0`, but is {kind}.")
    return recipe


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a recipe is of an annotated type; a text may stand for a number, as on the command line."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is list and isinstance(value, list):
            if all(fits(item, get_args(option)[0]) for item in value):
                return True
        elif option is bool or isinstance(value, bool):
            if option is bool and isinstance(value, (bool, str)):
                return True
        elif option in (int, float):
            if isinstance(value, (int, str) if option is int else (int, float, str)):
                return True
        elif isinstance(option, type) and issubclass(option, Enum):
            if isinstance(value, str):
                return True
        elif option is Any or isinstance(value, get_origin(option) or option):
            return True
    return False


def describe_type(hint: Any) -> str:
    """An annotated type in words."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    names = {bool: "true or false", int: "a whole number", float: "a number", dict: "a mapping", list: "a list"}
    described = [names.get(get_origin(option) or option, "a text") for option in options if option is not NoneType]
    return " or ".join(dict.fromkeys(described))


def check_recipe(recipe: dict[str, Any], types: tuple[type, ...], where: str) -> None:
    """Raise an `InputError` for a key of a recipe that is unknown, or whose value is of another type."""
    hints: dict[str, Any] = {}
    for dataclass_type in types:
        annotated = get_type_hints(dataclass_type)
        hints |= {f.name: annotated[f.name] for f in dataclasses.fields(dataclass_type) if f.init}
    refuse_unknown_keys(recipe, set(hints), where)
    for key, value in recipe.items():
        if not fits(value, hints[key]):
            hint = " YAML reads an unquoted yes or no so: write it in quotes." if isinstance(value, bool) else ""
            raise InputError(f"{where} has `{key}` {value!r}, but it takes {describe_type(hints[key])}.{hint}")


def split_recipe(arguments: list[str]) -> tuple[str | None, list[str]]:
    """
    Take the recipe off the front of a command line.

    Raises:
        InputError: for two recipes, or one that does not stand first.
    """
    names = [argument for argument in arguments if argument.endswith(ENDINGS) and not argument.startswith("-")]
    if len(arguments) > 1 and arguments[0] in names and arguments[1] in names:
        raise InputError(f"One recipe at a time, but got {arguments[0]!r} and {arguments[1]!r}.")
    if arguments and arguments[0] in names:
        return arguments[0], arguments[1:]
    if arguments and not arguments[0].startswith("-"):
        shipped = RECIPES / f"{arguments[0]}.yaml"
        hint = f" Did you mean examples/recipes/{shipped.name}?" if shipped.exists() else ""
        raise InputError(f"{arguments[0]!r} is neither a flag nor a recipe, which ends in .yaml.{hint}")
    return None, arguments


def show_help(arguments: list[str], options: dict[str, Any]) -> None:
    """Print the help that is asked for, if any, and exit; transformers' Trainer is imported for its own alone."""
    if {"-h", "--help"} & set(arguments):
        parser = ArgumentParser(OWN_TYPES, **options, epilog=OF_TRAINER)
        parser.add_argument("--help_trainer", action="store_true", help="List the Trainer's arguments.")
    elif {"--help_trainer", "--help-trainer"} & set(arguments):
        from transformers import TrainingArguments

        parser = ArgumentParser(TrainingArguments, **{**options, "description": "Arguments of transformers' Trainer."})
    else:
        return
    parser.print_help()
    raise SystemExit(0)


def parse_arguments(
    arguments: list[str],
    description: str | None,
    script: str = "image_classification",
    other_flags: Iterable[str] = (),
) -> tuple[DataArguments, ModelArguments, RunArguments, "TrainingArguments"]:
    """
    Parse `[RECIPE.yaml] [--flag value ...]`. Flags override the recipe.

    Args:
        arguments: The command line.
        description: What the help says first.
        script: Name of the script.
        other_flags: Flags that are known elsewhere, to be suggested for a misspelt one.

    Raises:
        InputError: for a recipe that cannot be read, and for a key, a flag or a value that does not exist.
    """
    usage = f"python -m examples.{script} [RECIPE.yaml] [--flag value ...]"
    show_help(arguments, {"description": description, "usage": usage})
    path, flags = split_recipe(arguments)
    # Late: it imports torch.
    from transformers import TrainingArguments

    types = (*OWN_TYPES, TrainingArguments)
    parser = ArgumentParser(types, usage=usage)
    if path is not None:
        recipe = read_recipe(path)
        check_recipe(recipe, types, f"The recipe {path!r}")
        parser.set_defaults(**recipe)
    data, model, run, training = parser.parse(flags, other_flags)
    check_numbers(training)
    if not any(flag.split("=")[0] in ("--output_dir", "--output-dir") for flag in flags):
        # A folder for each model that a recipe can make, so that none stands in the way of another.
        parts = [model.size, None if model.architecture == "ait" else model.architecture]
        training.output_dir = "_".join([str(training.output_dir), *filter(None, parts)])
    return data, model, run, training


def check_numbers(training: "TrainingArguments") -> None:
    """Raise an `InputError` for numbers that the Trainer would only stumble over later."""
    for name, lowest in LOWEST_NUMBERS.items():
        value = getattr(training, name)
        if value is not None and not lowest <= value < math.inf:
            raise InputError(f"`--{name}` must be at least {lowest} and finite, but got {value}.")
    if training.seed >= 2**32:
        raise InputError(f"`--seed` must be below 2**32, but got {training.seed}.")
    if training.num_train_epochs <= 0 and training.max_steps <= 0:
        raise InputError(f"`--num_train_epochs` must be above 0, but got {training.num_train_epochs}.")


def refuse_unused_arguments(training: "TrainingArguments", used: tuple[str, ...]) -> None:
    """Raise an `InputError` if a training argument is set that the explicit loop does not read."""
    # Whatever the arguments that are read imply for others, is implied here too.
    implied = type(training)(**{name: getattr(training, name) for name in used if hasattr(training, name)})
    given, unset = training.to_dict(), implied.to_dict()
    if ignored := sorted(name for name in given if given[name] != unset.get(name)):
        raise InputError(
            f"`{ignored[0]}` {given[ignored[0]]!r} has no effect in this loop: leave it out, "
            "or use `examples.image_classification`."
        )
