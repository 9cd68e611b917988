"""Opening a checkpoint: no weight may stay at random, and no broken file count as no file."""

import json
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, ViTImageProcessorPil, is_torchvision_available, logging
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
)

from examples.data.arguments import DataArguments
from examples.errors import LOADING_ERRORS, InputError, flatten_message
from examples.training.checkpoints import hint_at_run
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning, AiTModel, AiTPreTrainedModel
from modeling_ait.saving_ait import find_broken_weights


logger = logging.get_logger(__name__)

MODEL_CLASSES = (AiTModel, AiTForImageClassification, AiTForRelationalReasoning)


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
    statistics = {"image_mean": data.image_mean, "image_std": data.image_std}
    check_statistics(statistics, config.num_channels)
    return processor_class(
        size=dict(zip(("height", "width"), config.image_shape)),
        do_convert_rgb=True,
        **{name: values for name, values in statistics.items() if values is not None},
    )


def check_output(processor: ViTImageProcessorPil, config: AiTConfig) -> None:
    """Raise a `ValueError` if images come out of the processor in another size, not finite, or all the same."""
    height, width = config.image_shape
    is_grey = config.num_channels == 1
    options: dict[str, Any] = {"do_convert_rgb": False} if is_grey else {}
    images = [Image.new("L" if is_grey else "RGB", (width, height), color) for color in ("black", "white")]
    black, white = processor(images=images, return_tensors="pt", **options)["pixel_values"]
    if tuple(black.shape[-2:]) != (height, width):
        raise ValueError(
            f"it makes images of {black.shape[-2]} x {black.shape[-1]} pixels, but the model takes {height} x {width}."
        )
    if not bool(black.isfinite().all() and white.isfinite().all()) or torch.equal(black, white):
        raise ValueError("a black and a white image come out of it the same, or not finite.")


def load_image_processor(
    name_or_path: str, config: AiTConfig, data: DataArguments | None, is_resized: bool
) -> ViTImageProcessorPil:
    """
    Load the image processor of a checkpoint, with the mean and deviation of the arguments where they are given.

    Args:
        name_or_path: Hub id or folder.
        config: Configuration of the model.
        data: Arguments with `image_mean` and `image_std`, from which a checkpoint without a processor gets a new one.
        is_resized: Whether the images shall have the model's size in place of the processor's.

    Raises:
        InputError: if there is one that cannot be read, none and no arguments, or statistics that cannot work.
    """
    given = {name: getattr(data, name, None) for name in ("image_mean", "image_std")}
    overrides: dict[str, Any] = {name: values for name, values in given.items() if values is not None}
    check_statistics(overrides, config.num_channels)
    try:
        saved = read_saved_json(name_or_path, IMAGE_PROCESSOR_NAME)
        if saved is None:
            if data is None:
                raise ValueError("it is missing.")
            logger.warning(f"{name_or_path!r} has no image processor: a new one is made from the arguments.")
            return make_image_processor(config, data)
        for name in ("image_mean", "image_std"):
            if (overrides | saved).get(name) is None:
                raise ValueError(f"it has no `{name}`.")
        if is_resized:
            height, width = config.image_shape
            sizes = ["size"] + ["crop_size"] * ("crop_size" in saved)
            overrides |= {name: {"height": height, "width": width} for name in sizes}
        processor = ViTImageProcessorPil.from_pretrained(name_or_path, **overrides)
        check_statistics({name: getattr(processor, name) for name in ("image_mean", "image_std")}, config.num_channels)
        check_output(processor, config)
    except LOADING_ERRORS as error:
        advice = "save that of its training there" if data is None else "remove it for one made from the arguments"
        raise InputError(
            f"The image processor of {name_or_path!r} ({IMAGE_PROCESSOR_NAME}) cannot be used: "
            f"{flatten_message(error)} Restore the file, or {advice}."
        ) from error
    return processor


def read_saved_json(name_or_path: str, file_name: str) -> dict[str, Any] | None:
    """
    Read a JSON file of a checkpoint; `None` if the checkpoint has none.

    Raises:
        OSError: if the checkpoint is not there.
        InputError: if the file is something else than a mapping.
    """
    # Without a network an id of the Hub has no file at all, and transformers says so.
    is_needed = file_name == CONFIG_NAME and not Path(name_or_path).is_dir()
    file = cached_file(name_or_path, file_name, _raise_exceptions_for_missing_entries=is_needed)
    if file is None:
        return None
    try:
        saved = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file_name} of {name_or_path!r} is no JSON: {flatten_message(error)}.") from error
    if not isinstance(saved, dict):
        raise InputError(f"{file_name} of {name_or_path!r} must be a mapping of fields, but holds {saved!r:.60}.")
    return saved


def check_checkpoint_type(name_or_path: str) -> None:
    """
    Check that a checkpoint is an AiT, before anything is built from it.

    Raises:
        OSError: if its folder has no configuration that can be read.
        InputError: if there is neither such a folder nor such a Hub id, or its configuration is not an AiT's.
    """
    path = Path(name_or_path)
    if path.is_file():
        raise InputError(f"{name_or_path!r} is a file. Give the folder of a checkpoint, or a Hub id.")
    if not path.exists() and (name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1):
        raise InputError(f"There is no folder {name_or_path!r}. Give the folder of a checkpoint, or a Hub id.")
    try:
        saved = read_saved_json(name_or_path, CONFIG_NAME)
    except OSError as error:
        if path.exists():
            raise
        reason = f"there is no such folder here, and as a Hub id: {flatten_message(error)}"
        raise InputError(f"The checkpoint {name_or_path!r} cannot be loaded: {reason}") from error
    if (path / "adapter_config.json").exists() and not any(path.glob("model*.safetensors")):
        raise InputError(
            f"{name_or_path!r} is an adapter, no whole model: put it on its base by `PeftModel.from_pretrained`, "
            "and save what `merge_and_unload()` returns."
        )
    if saved is None:
        raise InputError(f"{name_or_path!r} is no checkpoint of an AiT: it has no {CONFIG_NAME}.{hint_at_run(path)}")
    index = read_saved_json(name_or_path, SAFE_WEIGHTS_INDEX_NAME)
    if index is not None and not isinstance(index.get("weight_map"), dict):
        raise InputError(f"{SAFE_WEIGHTS_INDEX_NAME} of {name_or_path!r} has no `weight_map`.")
    model_type, architectures = saved.get("model_type"), saved.get("architectures") or []
    known = [model_class.__name__ for model_class in MODEL_CLASSES]
    is_known = isinstance(architectures, list) and all(name in known for name in architectures)
    if model_type != AiTConfig.model_type or not is_known:
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
    if broken := sorted(find_broken_weights(model)):
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
        model, loading_info = cast(Any, model_class).from_pretrained(
            name_or_path, ignore_mismatched_sizes=True, output_loading_info=True, **fields
        )
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
        reason = flatten_message(error)
        if isinstance(error, SafetensorError):
            reason = f"its weights (*.safetensors) are damaged: {reason}."
        elif isinstance(error, UnpicklingError):
            reason = "its weights are a pickle that would execute code, which is refused. Save them as safetensors."
        raise InputError(f"The checkpoint {name_or_path!r} cannot be loaded: {reason}") from error
    return model


def read_config(name_or_path: str) -> dict[str, Any]:
    """
    Read the saved configuration of a checkpoint.

    Raises:
        InputError: if it is no AiT, or not there.
    """
    try:
        check_checkpoint_type(name_or_path)
        return read_saved_json(name_or_path, CONFIG_NAME) or {}
    except OSError as error:
        raise InputError(f"The checkpoint {name_or_path!r} cannot be loaded: {flatten_message(error)}") from error


def choose_class(name_or_path: str) -> type[AiTPreTrainedModel]:
    """The class of a checkpoint, see `read_config`: with questions or without."""
    has_question = read_config(name_or_path).get("question_size") is not None
    return AiTForRelationalReasoning if has_question else AiTForImageClassification


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint, all of them or an adapter's."""
    if isinstance(model, PreTrainedModel):
        model.load_state_dict(load_file(checkpoint / SAFE_WEIGHTS_NAME))
        return
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(checkpoint / ADAPTER_SAFE_WEIGHTS_NAME))
