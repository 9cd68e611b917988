"""The model of a run and its image processor, from scratch or from a checkpoint."""

from typing import Any

from transformers import PreTrainedModel, ViTImageProcessorPil, is_torchvision_available, logging, set_seed

from examples.baselines import build_architecture
from examples.data.arguments import DataArguments
from examples.errors import InputError
from examples.training.arguments import ModelArguments
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


logger = logging.get_logger(__name__)


def make_image_processor(config: AiTConfig, data: DataArguments) -> ViTImageProcessorPil:
    """Make transformers' ViT image processor for the configured image size."""
    processor_class: type = ViTImageProcessorPil
    if is_torchvision_available():
        from transformers import ViTImageProcessor

        processor_class = ViTImageProcessor
    height, width = config.image_shape
    statistics = {"image_mean": data.image_mean, "image_std": data.image_std}
    for name, values in statistics.items():
        if values is not None and len(values) != config.num_channels:
            raise InputError(f"`{name}` must have one value per channel ({config.num_channels}), but got {values}.")
    return processor_class(
        size={"height": height, "width": width},
        do_convert_rgb=True,
        **{name: values for name, values in statistics.items() if values is not None},
    )


def build_model(
    arguments: ModelArguments, data: DataArguments, label_names: list[str], seed: int, question_size: int | None = None
) -> tuple[PreTrainedModel, ViTImageProcessorPil]:
    """
    Build the classifier, an AiT or a baseline, and its image processor, from scratch or from an AiT checkpoint.

    Raises:
        InputError: for fields that cannot work, or a checkpoint that is not there or holds another model.
    """
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    fields: dict[str, Any] = dict(arguments.model_config or {})  # type: ignore[arg-type]  # a mapping after parsing
    if fields.get("num_channels", 3) != 3:
        raise InputError(
            f"`num_channels` is {fields['num_channels']}, but this script turns every image into RGB: leave it at 3."
        )
    if question_size is not None:
        fields["question_size"] = question_size
    if arguments.reset_memory and arguments.architecture != "ait":
        raise InputError(f"`reset_memory` needs the architecture 'ait', but got {arguments.architecture!r}.")
    set_seed(seed)
    try:
        if arguments.model_name_or_path is None:
            config = (
                AiTConfig.from_size(arguments.size, **fields, **labels)
                if arguments.size
                else AiTConfig(**fields, **labels)
            )
            model = build_architecture(
                arguments.architecture,
                config,
                arguments.baseline_config,  # type: ignore[arg-type]  # a mapping after parsing
                arguments.match_parameters,
            )
            return model, make_image_processor(config, data)
        if arguments.size is not None:
            raise InputError("Give `size` or `model_name_or_path`, not both: a checkpoint has its size.")
        if arguments.architecture != "ait":
            raise InputError("Give `architecture` or `model_name_or_path`, not both: a checkpoint is an AiT.")
        model_class = AiTForImageClassification if question_size is None else AiTForRelationalReasoning
        model = model_class.from_pretrained(
            arguments.model_name_or_path, ignore_mismatched_sizes=True, **fields, **labels
        )
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    try:
        processor = ViTImageProcessorPil.from_pretrained(arguments.model_name_or_path)
    except OSError:
        logger.warning(
            f"{arguments.model_name_or_path!r} has no image processor: a new one is made from the arguments."
        )
        return model, make_image_processor(model.config, data)
    return model, processor
