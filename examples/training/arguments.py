"""Arguments of the training scripts: a YAML recipe, flags, or both."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments

from examples.baselines import ARCHITECTURES
from examples.data.arguments import DataArguments, HelpFormatter
from examples.errors import InputError, refuse_unknown_keys
from examples.sharing import set_hub_token
from modeling_ait import AiTConfig


@dataclass
class ModelArguments:
    """What to train."""

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
        inherited = {f.name for f in dataclasses.fields(PreTrainedConfig)}
        known = {f.name for f in dataclasses.fields(AiTConfig)} - inherited | {"problem_type", "attn_implementation"}
        refuse_unknown_keys(self.model_config, known, "`model_config`")


@dataclass
class RunArguments:
    """How to deal with what is there already."""

    restart: bool = field(default=False, metadata={"help": "Start anew where an unfinished run could be resumed."})


def read_recipe(path: str) -> dict[str, Any]:
    """Read a YAML recipe into a dictionary; a token of the Hub goes into the environment instead."""
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        folder = Path(__file__).parents[1] / "recipes"
        shipped = ", ".join(sorted(recipe.name for recipe in folder.glob("*.yaml")))
        raise InputError(f"There is no recipe {path!r}. Shipped in examples/recipes/: {shipped}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {path!r} is not valid YAML: {error}") from None
    if not isinstance(recipe, dict):
        raise InputError(f"The recipe {path!r} must be a mapping of arguments, but is a {type(recipe).__name__}.")
    if (token := recipe.pop("hub_token", None)) is not None:
        set_hub_token(token)
    return recipe


def parse_arguments(
    arguments: list[str], description: str | None
) -> tuple[DataArguments, ModelArguments, RunArguments, TrainingArguments]:
    """
    Parse `[RECIPE.yaml] [--flag value ...]`. Flags override the recipe.

    Raises:
        InputError: for a recipe that cannot be read or has an unknown key; the message lists the known ones.
    """
    types: Any = (DataArguments, ModelArguments, RunArguments, TrainingArguments)
    usage = f"python -m examples.{Path(sys.argv[0]).stem} [RECIPE.yaml] [--flag value ...]"
    parser = HfArgumentParser(types, description=description, usage=usage, formatter_class=HelpFormatter)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        recipe = read_recipe(arguments[0])
        known = {f.name for dataclass_type in types for f in dataclasses.fields(dataclass_type) if f.init}
        refuse_unknown_keys(recipe, known, f"The recipe {arguments[0]!r}")
        parser.set_defaults(**recipe)
        arguments = arguments[1:]
    data, model, run, training = parser.parse_args_into_dataclasses(args=arguments)
    if training.hub_token is not None:
        # The arguments are saved with every checkpoint.
        set_hub_token(training.hub_token)
        training.hub_token = None
    if not any(argument.startswith("--output") for argument in arguments):
        # A folder for each model that a recipe can make, so that none stands in the way of another.
        parts = [model.size, None if model.architecture == "ait" else model.architecture]
        training.output_dir = "_".join([str(training.output_dir), *filter(None, parts)])
    return data, model, run, training  # type: ignore[return-value]  # the parser forgets which dataclass is which


def refuse_unused_arguments(training: TrainingArguments, used: tuple[str, ...]) -> None:
    """Raise an `InputError` if a training argument is set that the explicit loop does not read."""
    # Whatever the arguments that are read imply for others, is implied here too.
    implied = TrainingArguments(**{name: getattr(training, name) for name in used if hasattr(training, name)})
    given, unset = training.to_dict(), implied.to_dict()
    if ignored := sorted(name for name in given if given[name] != unset.get(name)):
        raise InputError(
            f"`{ignored[0]}` {given[ignored[0]]!r} has no effect in this loop: leave it out, "
            "or use `examples.image_classification`."
        )
