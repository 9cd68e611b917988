"""The model of a run and its image processor, from scratch or from a checkpoint."""

import json
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessorPil,
    is_torchvision_available,
    logging,
    set_seed,
)
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, cached_file

from examples.baselines.build import build_architecture
from examples.data.arguments import DataArguments
from examples.errors import InputError
from examples.training.arguments import ModelArguments, check_arguments, check_problem_type
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning, AiTModel, AiTPreTrainedModel


logger = logging.get_logger(__name__)

# What the libraries raise over a file that is not what its name says.
LOADING_ERRORS = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    SafetensorError,
    ValueError,
)
MODEL_CLASSES = (AiTModel, AiTForImageClassification, AiTForRelationalReasoning)


def flatten_message(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())


def check_statistics(statistics: dict[str, list[float] | None], num_channels: int) -> None:
    """
    Check the mean and the standard deviation that images are normalised with, as far as they are given.

    Raises:
        InputError: if there is not one finite value per channel, or a standard deviation is not positive.
    """
    for name, values in statistics.items():
        if values is None:
            continue
        if not isinstance(values, (list, tuple)) or len(values) != num_channels:
            raise InputError(f"`{name}` must have one value per channel ({num_channels}), but got {values}.")
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise InputError(f"`{name}` must have finite numbers only, but got {values}.")
        if name == "image_std" and min(values) <= 0:
            raise InputError(f"`image_std` must have positive numbers only, but got {values}.")


def make_image_processor(config: AiTConfig, data: DataArguments) -> ViTImageProcessorPil:
    """Make transformers' ViT image processor for the configured image size."""
    processor_class: type = ViTImageProcessorPil
    if is_torchvision_available():
        from transformers import ViTImageProcessor

        processor_class = ViTImageProcessor
    height, width = config.image_shape
    statistics = {"image_mean": data.image_mean, "image_std": data.image_std}
    check_statistics(statistics, config.num_channels)
    return processor_class(
        size={"height": height, "width": width},
        do_convert_rgb=True,
        **{name: values for name, values in statistics.items() if values is not None},
    )


def load_image_processor(
    name_or_path: str, config: AiTConfig, data: DataArguments, is_resized: bool
) -> ViTImageProcessorPil:
    """
    Load the image processor of a checkpoint, with the mean and deviation of the arguments where they are given.

    A checkpoint that has none gets a new one.

    Args:
        name_or_path: Hub id or folder.
        config: Configuration of the model.
        data: Arguments with `image_mean` and `image_std`.
        is_resized: Whether the images shall have the model's size in place of the processor's.

    Raises:
        InputError: if there is one that cannot be read, or statistics that cannot work.
    """
    overrides: dict[str, Any] = {"image_mean": data.image_mean, "image_std": data.image_std}
    overrides = {name: values for name, values in overrides.items() if values is not None}
    check_statistics(overrides, config.num_channels)
    try:
        file = cached_file(name_or_path, IMAGE_PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False)
        if file is None:
            logger.warning(f"{name_or_path!r} has no image processor: a new one is made from the arguments.")
            return make_image_processor(config, data)
        saved = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise ValueError(f"it holds {saved!r} in place of a mapping of fields.")
        for name in ("image_mean", "image_std"):
            if (overrides | saved).get(name) is None:
                raise ValueError(f"it has no `{name}`.")
        if is_resized:
            height, width = config.image_shape
            sizes = ["size"] + ["crop_size"] * ("crop_size" in saved)
            overrides |= {name: {"height": height, "width": width} for name in sizes}
        processor = ViTImageProcessorPil.from_pretrained(name_or_path, **overrides)
        check_statistics({name: getattr(processor, name) for name in ("image_mean", "image_std")}, config.num_channels)
        size = getattr(processor, "crop_size" if getattr(processor, "do_center_crop", False) else "size")
        made = tuple((size or {}).get(name) for name in ("height", "width"))
        if None not in made and made != tuple(config.image_shape):
            raise ValueError(
                f"it makes images of {made[0]} x {made[1]} pixels, but the model takes {config.image_shape[0]} x "
                f"{config.image_shape[1]}."
            )
    except LOADING_ERRORS as error:
        raise InputError(
            f"The image processor of {name_or_path!r} ({IMAGE_PROCESSOR_NAME}) cannot be used: "
            f"{flatten_message(error)} Restore the file, or remove it to get a new one made from the arguments."
        ) from error
    return processor


def check_checkpoint_type(name_or_path: str) -> None:
    """
    Check that a checkpoint is an AiT, before anything is built from it.

    Raises:
        OSError: if it has no configuration that can be read.
        InputError: if its configuration is of another model, or of none.
    """
    path = Path(name_or_path)
    if path.is_file():
        raise InputError(f"{name_or_path!r} is a file. Give the folder of a checkpoint, or a Hub id.")
    if not path.exists() and (name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1):
        raise InputError(f"There is no folder {name_or_path!r}. Give the folder of a checkpoint, or a Hub id.")
    if path.is_dir() and not (path / CONFIG_NAME).is_file():
        raise InputError(f"{name_or_path!r} is no checkpoint of an AiT: it has no {CONFIG_NAME}.")
    if path.is_dir():
        try:
            is_mapping = isinstance(json.loads((path / CONFIG_NAME).read_text(encoding="utf-8")), dict)
        except ValueError:
            is_mapping = False
        if not is_mapping:
            raise InputError(
                f"{str(path / CONFIG_NAME)!r} is no JSON mapping of fields. Restore it, or take another checkpoint."
            )
    saved, _ = PreTrainedConfig.get_config_dict(name_or_path)
    model_type, architectures = saved.get("model_type"), saved.get("architectures") or []
    known = [model_class.__name__ for model_class in MODEL_CLASSES]
    if model_type != AiTConfig.model_type or any(name not in known for name in architectures):
        raise InputError(
            f"{name_or_path!r} is no checkpoint of an AiT: its config.json says `model_type` {model_type!r} and "
            f"`architectures` {architectures}, in place of {AiTConfig.model_type!r} and one of {', '.join(known)}."
        )


def check_weights(
    name_or_path: str, model: PreTrainedModel, loading_info: dict[str, Any], is_classifier_new: bool
) -> None:
    """
    Check that all weights come from the checkpoint, but for the classifier's if it may be new.

    Raises:
        InputError: if some do not, or are not finite; the message has their names.
    """
    faults = {
        "missing weights": set(loading_info["missing_keys"]),
        "unknown weights": set(loading_info["unexpected_keys"]),
        "weights of another shape": {name for name, *_ in loading_info["mismatched_keys"]},
    }
    broken = sorted(
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    )
    if broken:
        raise InputError(
            f"The checkpoint {name_or_path!r} holds weights that are not finite: {', '.join(broken[:5])}. Its "
            "training diverged: take an older checkpoint, or train again with a lower `--learning_rate`."
        )
    for fault, names in faults.items():
        if is_classifier_new:
            names = {name for name in names if not name.startswith("classifier.")}
        if names:
            listed = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            allowed = "Only the classifier may be new" if is_classifier_new else "No weights may be new"
            raise InputError(
                f"The checkpoint {name_or_path!r} does not fit, {fault}: {listed}. {allowed}: leave `model_config` as "
                "it was in training, or take another checkpoint."
            )


def load_checkpoint(
    name_or_path: str, model_class: type[AiTPreTrainedModel], is_classifier_new: bool = True, **fields: Any
) -> AiTPreTrainedModel:
    """
    Load an AiT whose weights all come from a checkpoint, but for a classifier of other labels.

    Args:
        name_or_path: Hub id or folder.
        model_class: Class to load it with.
        is_classifier_new: Whether the classifier may be new, as in fine-tuning; its weights are then random.
        fields: Fields of its configuration that differ. Another `image_size` resizes the positions.

    Raises:
        InputError: if it is not there, holds another model, or would leave weights at random.
    """
    image_size = fields.pop("image_size", None)
    try:
        check_checkpoint_type(name_or_path)
        # Sizes that do not match are refused below, with their names, where they are not the classifier's.
        loaded: Any = model_class.from_pretrained(
            name_or_path, ignore_mismatched_sizes=True, output_loading_info=True, **fields
        )
        model, loading_info = loaded
        # Fields that differ were set one by one; together they may not fit.
        type(model.config).from_dict(model.config.to_dict())
        check_weights(name_or_path, model, loading_info, is_classifier_new)
        takes_question = model_class is AiTForRelationalReasoning
        if model_class is not AiTModel and (model.config.question_size is not None) != takes_question:
            raise InputError(
                f"The checkpoint {name_or_path!r} was trained with a question (`question_size` "
                f"{model.config.question_size}), but the images here come without one."
            )
        old_shape = model.config.image_shape
        if image_size is not None:
            model.resize_positions(image_size)
        if model.config.image_shape != old_shape:
            (height, width), (old_height, old_width) = model.config.image_shape, old_shape
            logger.warning(
                f"The positions of {name_or_path!r} are resized, from images of {old_height} x {old_width} pixels to "
                f"{height} x {width}."
            )
    except LOADING_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The checkpoint {name_or_path!r} cannot be loaded: {flatten_message(error)}") from error
    return model


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
    check_problem_type(ait.config.problem_type)
    return ait, load_image_processor(checkpoint, ait.config, data, is_resized="image_size" in fields)
