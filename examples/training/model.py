"""The model of a run and its image processor, from scratch or from a checkpoint."""

from typing import Any

import torch
from transformers import PreTrainedModel, ViTImageProcessorPil, set_seed
from transformers.utils import logging

from examples.baselines.build import build_architecture
from examples.data.arguments import DataArguments
from examples.errors import InputError, flatten_message
from examples.training.arguments import ModelArguments, check_arguments, check_problem_type
from examples.training.loading import load_checkpoint, load_image_processor, make_image_processor
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


logger = logging.get_logger(__name__)


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
    old_names = list((AiTConfig.from_pretrained(checkpoint).id2label or {}).values())
    if len(old_names) == len(label_names) and old_names != label_names:
        change = next(f"{old!r} is now {new!r}" for old, new in zip(old_names, label_names) if old != new)
        logger.warning(f"The classifier of {checkpoint!r} is kept, under the new names of its classes: {change}.")
    check_problem_type(ait.config.problem_type)
    return ait, load_image_processor(checkpoint, ait.config, data, is_resized="image_size" in fields)


def leaves_parameters_unused(model: torch.nn.Module) -> bool:
    """Whether a step may leave parameters of the write without gradient, for which DDP would wait."""
    config: Any = model.config
    return not (getattr(config, "differentiable_write", True) and getattr(config, "update_memory", True))
