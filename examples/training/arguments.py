"""Arguments of the training scripts: a YAML recipe, flags, or both."""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from examples.baselines.catalog import ARCHITECTURES
from examples.data.arguments import DataArguments
from examples.errors import InputError, refuse_unknown_keys, refuse_unknown_name
from examples.parsing import ArgumentParser
from examples.sharing import set_hub_token
from examples.training.idle import refuse_idle_flags, refuse_idle_picture
from examples.training.launch import refuse_split_launch
from examples.training.recipes import check_recipe, read_recipe, split_recipe


if TYPE_CHECKING:
    from transformers import TrainingArguments

# Steps between two logs, evaluations and checkpoints, or the share of all steps.
INTERVALS = ("logging_steps", "eval_steps", "save_steps")
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
        refuse_unknown_name(self.architecture, ARCHITECTURES, "architecture")
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


def check_arguments(arguments: ModelArguments, fields: dict[str, Any]) -> None:
    """
    Check what the configuration itself does not know.

    Raises:
        InputError: for a field that the scripts cannot train with, or arguments that exclude each other.
    """
    if fields.get("num_channels", 3) != 3:
        raise InputError(
            f"`num_channels` is {fields['num_channels']}, but this script turns every image into RGB: leave it at 3."
        )
    if fields.get("question_size") is not None:
        raise InputError(
            "Leave `question_size` out of `model_config`: `examples.relational_reasoning` sets it, and images "
            "alone have no question."
        )
    if arguments.reset_memory and fields.get("num_memory_slots") == 0:
        raise InputError("`reset_memory` needs a memory, but `num_memory_slots` is 0: leave one of them out.")
    if arguments.reset_memory and arguments.architecture != "ait":
        raise InputError(f"`reset_memory` needs the architecture 'ait', but got {arguments.architecture!r}.")
    if arguments.model_name_or_path is not None and arguments.size is not None:
        raise InputError("Give `size` or `model_name_or_path`, not both: a checkpoint has its size.")
    if arguments.model_name_or_path is not None and arguments.architecture != "ait":
        raise InputError("Give `architecture` or `model_name_or_path`, not both: a checkpoint is an AiT.")


def check_problem_type(problem_type: str | None) -> None:
    """Raise an `InputError` for a loss that takes other labels than one class per image."""
    if problem_type not in (None, "single_label_classification"):
        raise InputError(
            f"`problem_type` is {problem_type!r}, but every image here has one label: use "
            "'single_label_classification', for instance by `model_config`, or leave it out."
        )


@dataclass
class RunArguments:
    """How to deal with what is there already, and what to show."""

    _argument_group_name: ClassVar[str] = "run"

    restart: bool = field(default=False, metadata={"help": "Start anew where an unfinished run could be resumed."})
    visualize: bool = field(
        default=True, metadata={"help": "Draw the memories at the end, as memory.png, in seconds."}
    )
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


def refuse_data_folder(output_dir: Path, dataset_name: str | None) -> None:
    """Raise an `InputError` if a run would be written among the images or tables that it trains on."""
    if not dataset_name:
        return
    folder = Path(dataset_name).expanduser()
    if not folder.is_dir() or not output_dir.resolve().is_relative_to(folder.resolve()):
        return
    # Late: it imports datasets.
    from examples.data.loading import EMBEDDED, find_benchmark

    if dataset_name not in EMBEDDED and find_benchmark(dataset_name) is None:
        raise InputError(
            f"`--output_dir` {str(output_dir)!r} lies in the data folder {dataset_name!r}, where what a run writes "
            "would be taken for data: name another place."
        )


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
        InputError: for a recipe that cannot be read, for a key, a flag or a value that does not exist, for processes
            that would not train together, and for an output folder among the data.
    """
    usage = f"python -m examples.{script} [RECIPE.yaml] [--flag value ...]"
    show_help(arguments, {"description": description, "usage": usage})
    path, flags = split_recipe(arguments)
    # Late: it imports torch.
    from transformers import TrainingArguments

    types = (*OWN_TYPES, TrainingArguments)
    parser = ArgumentParser(types, usage=usage)
    recipe: dict[str, Any] = {}
    if path is not None:
        recipe = read_recipe(path)
        check_recipe(recipe, types, f"The recipe {path!r}")
        parser.set_defaults(**recipe)
    data, model, run, training = parser.parse(flags, other_flags)
    if training.hub_token is not None:
        # The arguments are saved with every checkpoint.
        set_hub_token(training.hub_token)
        training.hub_token = None
    check_numbers(training)
    refuse_split_launch(training, script)
    given = {flag.partition("=")[0][2:].replace("-", "_") for flag in flags if flag.startswith("--")}
    refuse_idle_flags(given, set(recipe), model)
    if run.visualize and "visualize" in given:
        refuse_idle_picture(model, training, script)
    if model.architecture == "vit" and (
        mixing := [name for name in ("mixup_alpha", "cutmix_alpha") if vars(data)[name]]
    ):
        # Transformers' ViT would take them for classes that do not exclude each other.
        raise InputError(
            f"`--{mixing[0]}` gives shares of classes, which the architecture 'vit' does not take: leave it out, or "
            "take 'ait_no_workspace'."
        )
    # The workers of a stream decide its order, which must not depend on the machine.
    if not data.streaming and "dataloader_num_workers" not in given | set(recipe):
        training.dataloader_num_workers = None  # type: ignore[assignment]  # chosen with the data
    if "output_dir" not in given:
        # A folder for each model that a recipe can make, so that none stands in the way of another.
        parts = [model.size, None if model.architecture == "ait" else model.architecture]
        training.output_dir = "_".join([str(training.output_dir), *filter(None, parts)])
    refuse_data_folder(Path(str(training.output_dir)), data.dataset_name)
    return data, model, run, training


def check_numbers(training: "TrainingArguments") -> None:
    """Raise an `InputError` for numbers that the Trainer would only stumble over later."""
    for name, lowest in LOWEST_NUMBERS.items():
        value = getattr(training, name)
        if value is not None and not lowest <= value < math.inf:
            raise InputError(f"`--{name}` must be at least {lowest} and finite, but got {value}.")
    for name in INTERVALS:
        value = getattr(training, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"`--{name}` must be above 0 and finite, but got {value}.")
    if not training.output_dir:
        raise InputError("`--output_dir` is empty: name a folder.")
    if training.seed >= 2**32:
        raise InputError(f"`--seed` must be below 2**32, but got {training.seed}.")
    if training.num_train_epochs <= 0 and training.max_steps <= 0:
        raise InputError(f"`--num_train_epochs` must be above 0, but got {training.num_train_epochs}.")


def refuse_empty_epochs(training: "TrainingArguments", num_samples: int) -> None:
    """Raise an `InputError` if an epoch has no batch left, once its incomplete last one is dropped."""
    batch_size = training.train_batch_size * training.world_size
    if training.dataloader_drop_last and num_samples < batch_size:
        raise InputError(
            f"`--dataloader_drop_last` leaves no batch: there are {num_samples} training samples, and a batch has "
            f"{batch_size}. Leave it out, or take smaller batches (`--per_device_train_batch_size`)."
        )


def refuse_unused_arguments(training: "TrainingArguments", used: tuple[str, ...]) -> None:
    """Raise an `InputError` if a training argument is set that the explicit loop does not read."""
    # Whatever the arguments that are read imply for others, is implied here too.
    read = {name: getattr(training, name) for name in used if hasattr(training, name)}
    implied = type(training)(**{**read, "dataloader_num_workers": read["dataloader_num_workers"] or 0})
    implied.dataloader_num_workers = training.dataloader_num_workers
    given, unset = training.to_dict(), implied.to_dict()
    if training.save_strategy == "best":
        raise InputError("`save_strategy` 'best' has no effect in this loop: take 'epoch' or 'steps'.")
    # What the Trainer derives from others, which are named before it.
    derived = ("greater_is_better", "metric_for_best_model")
    ignored = [name for name in given if given[name] != unset.get(name)]
    if ignored := sorted(ignored, key=lambda name: (name in derived, name)):
        raise InputError(
            f"`{ignored[0]}` {given[ignored[0]]!r} has no effect in this loop: leave it out, "
            "or use `examples.image_classification`."
        )
