"""The model of a run and its image processor, from scratch or from a checkpoint."""

from typing import Any

from transformers import PreTrainedModel, ViTImageProcessorPil, set_seed

from examples.baselines import build_architecture
from examples.data.arguments import DataArguments
from examples.errors import InputError
from examples.training.arguments import ModelArguments
from examples.training.checkpoint import flatten_message, load_checkpoint, load_image_processor, make_image_processor
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


def build_from_scratch(arguments: ModelArguments, fields: dict[str, Any]) -> tuple[AiTConfig, PreTrainedModel]:
    """Build an AiT, or what it is compared with, and return it with the configuration of the AiT."""
    config = AiTConfig.from_size(arguments.size, **fields) if arguments.size else AiTConfig(**fields)
    model = build_architecture(
        arguments.architecture,
        config,
        arguments.baseline_config,  # type: ignore[arg-type]  # a mapping after parsing
        arguments.match_parameters,
    )
    return config, model


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


def build_model(
    arguments: ModelArguments, data: DataArguments, label_names: list[str], seed: int, question_size: int | None = None
) -> tuple[PreTrainedModel, ViTImageProcessorPil]:
    """
    Build the classifier, an AiT or a baseline, and its image processor, from scratch or from an AiT checkpoint.

    Raises:
        InputError: for fields that cannot work, or a checkpoint that is not there or holds another model.
    """
    fields: dict[str, Any] = dict(arguments.model_config or {})  # type: ignore[arg-type]  # a mapping after parsing
    check_arguments(arguments, fields)
    check_problem_type(fields.get("problem_type"))
    fields["id2label"] = dict(enumerate(label_names))
    fields["label2id"] = {name: index for index, name in enumerate(label_names)}
    if question_size is not None:
        fields["question_size"] = question_size
    set_seed(seed)
    checkpoint = arguments.model_name_or_path
    if checkpoint is None:
        try:
            config, model = build_from_scratch(arguments, fields)
        except ValueError as error:
            raise InputError(flatten_message(error)) from error
        check_problem_type(model.config.problem_type)
        return model, make_image_processor(config, data)
    model_class = AiTForImageClassification if question_size is None else AiTForRelationalReasoning
    ait = load_checkpoint(checkpoint, model_class, **fields)
    check_problem_type(ait.config.problem_type)
    return ait, load_image_processor(checkpoint, ait.config, data, is_resized="image_size" in fields)
