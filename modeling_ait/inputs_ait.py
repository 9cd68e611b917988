"""What a forward refuses, each with one line, before anything is computed or written."""

from difflib import get_close_matches
from types import NoneType
from typing import Any

import torch

from .configuration_ait import PROBLEM_TYPES, AiTConfig


# What cross-entropy leaves out.
IGNORED_LABEL = -100
# Keyword arguments of a forward that are AiT's own.
FLAGS = ("update_memory", "output_workspace", "interpolate_pos_encoding")
# What layers, attention and loss get from the model beside the keyword arguments of a forward.
OWN_ARGUMENTS = {"config", "dropout", "hidden_states", "memory", "num_questions", "pooled_logits", "scaling"}


def check_flags(**flags: Any) -> None:
    """Raise a `ValueError` for what else a forward is given, as far as it cannot work."""
    for name in ("update_memory", "interpolate_pos_encoding"):
        # Anything else has a truth value too: "no" would write the memories.
        if not isinstance(flags.get(name), (bool, NoneType)):
            raise ValueError(f"`{name}` must be True, False or None, but got {show(flags[name])}.")
    if flags.get("attention_mask") is not None:
        raise ValueError("AiT attends to every token of an image: leave `attention_mask` out.")
    # Others are let through, as every model does; of these a slip would change the result without a word.
    for name in () if torch.compiler.is_compiling() else set(flags).difference(FLAGS):
        if meant := get_close_matches(name, FLAGS, 1, 0.8):
            raise ValueError(f"There is no `{name}`: write `{meant[0]}`.")
    for name in OWN_ARGUMENTS.intersection(flags):
        raise ValueError(f"AiT sets `{name}` itself: leave it out.")
    number = flags.get("num_items_in_batch")
    is_number = isinstance(number, (int, float)) and number > 0
    # A look at the value of a tensor would wait for its device.
    if not (number is None or is_number or (isinstance(number, torch.Tensor) and number.numel() == 1)):
        raise ValueError(f"`num_items_in_batch` must be a number above 0, but got {show(number)}.")
    if not isinstance(flags.get("ignore_index", IGNORED_LABEL), int):
        raise ValueError(f"`ignore_index` must be a whole number, but got {show(flags['ignore_index'])}.")


def show(value: Any) -> str:
    """Describe what was given in a few words of one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:60]}..."


def check_tensor(name: str, tensor: Any) -> None:
    """Raise a `ValueError` unless it is a dense tensor of real numbers."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"`{name}` must be a tensor, but got {type(tensor).__name__}.")
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else str(tensor.layout)
        raise ValueError(f"`{name}` must be a dense tensor, but got a {kind} one.")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"`{name}` must hold integers or real numbers, but got {tensor.dtype}.")


def check_images(
    pixel_values: torch.Tensor | None,
    question: torch.Tensor | None,
    device: torch.device | None,
) -> torch.Tensor:
    """
    Return the images, or raise a `ValueError` for images or a question that no AiT can take.

    Args:
        pixel_values: The images; their shape is checked where they are embedded.
        question: The questions, if any.
        device: Where the model is; `None` where a device map moves the inputs.
    """
    if pixel_values is None:
        raise ValueError("You have to specify `pixel_values`.")
    for name, tensor in (("pixel_values", pixel_values), ("question", question)):
        if tensor is None:
            continue
        check_tensor(name, tensor)
        if device is not None and tensor.device != device:
            raise ValueError(
                f"`{name}` is on {tensor.device}, but the model on {device}: move it with `.to({str(device)!r})`."
            )
    # `len` would fix the number in an exported model.
    batch_size = pixel_values.shape[0] if pixel_values.dim() > 0 else 0
    if question is not None and question.dim() > 0 and question.shape[0] != batch_size:
        raise ValueError(f"There are {batch_size} images, but {question.shape[0]} questions: give one for each image.")
    if batch_size == 0:
        raise ValueError(f"`pixel_values` of shape {tuple(pixel_values.shape)} holds no image: leave the batch out.")
    return pixel_values


def flatten_labels(labels: torch.Tensor, question: torch.Tensor | None, batch_size: int) -> tuple[torch.Tensor, int]:
    """
    Return the labels with one row for each sample or, of images with several questions each, for each question.

    Args:
        labels: Labels `(batch_size, ...)`, or `(batch_size, num_questions, ...)`.
        question: The questions, if any, `(batch_size[, num_questions], question_size)`.
        batch_size: Number of images.

    Returns:
        The labels, and how many of them there must be.

    Raises:
        `ValueError`: for labels that are not one for each of several questions.
    """
    if not isinstance(question, torch.Tensor) or question.dim() != 3:
        return labels, batch_size
    if not isinstance(labels, torch.Tensor) or labels.shape[:2] != question.shape[:2]:
        given = f"{tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise ValueError(f"`labels` must have the shape {tuple(question.shape[:2])}, as `question`, but got {given}.")
    return labels.flatten(0, 1), question.shape[0] * question.shape[1]


def check_labels(
    labels: torch.Tensor, pixel_values: torch.Tensor | None, question: torch.Tensor | None, config: AiTConfig
) -> tuple[torch.Tensor, str | None]:
    """
    Return the labels as the loss takes them and their `problem_type`, or raise a `ValueError` that says what is wrong.

    Where `config.problem_type` is not set, the labels decide it, as in transformers: integers are classes. Rows of
    numbers that sum to 1 are probabilities of classes (mixup); transformers takes them for independent targets.

    Args:
        labels: Classes `(batch_size,)`, or targets `(batch_size, num_labels)`.
        pixel_values: The images, whose number counts. `None` is refused where images are encoded.
        question: The questions, if any.
        config: Configuration, which stays as it is.
    """
    num_labels = config.num_labels or 0
    if pixel_values is None:
        return labels, config.problem_type
    check_tensor("pixel_values", pixel_values)
    check_tensor("labels", labels)
    if question is not None:
        check_tensor("question", question)
    batch_size = pixel_values.shape[0] if pixel_values.dim() > 0 else 0
    labels, batch_size = flatten_labels(labels, question, batch_size)
    if num_labels < 1:
        raise ValueError("This model has no classes (`num_labels` is 0), so it takes no `labels`.")
    given = f"but got {labels.dtype} of shape {tuple(labels.shape)}"
    if labels.is_floating_point() and labels.element_size() == 1:
        raise ValueError(f"`labels` must be integers, or real numbers of at least 16 bits, {given}.")
    if labels.is_meta and not pixel_values.is_meta:
        raise ValueError("`labels` are on meta and have no values, but the images have: make them on another device.")
    # Elsewhere than on the CPU a look at the values would wait for the device.
    can_look = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if can_look and labels.is_floating_point() and not bool(labels.isfinite().all()):
        raise ValueError("`labels` must be finite, but hold a NaN or an infinity.")
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"`problem_type` must be None or one of {PROBLEM_TYPES}, but got {config.problem_type!r}.")
    has_rows = labels.shape == (batch_size, num_labels)
    problem_type = config.problem_type
    if problem_type is None:
        if num_labels == 1:
            problem_type = "regression"
        elif not labels.is_floating_point() or (has_rows and bool(((labels.sum(-1) - 1).abs() < 1e-3).all())):
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    if problem_type != "single_label_classification":
        if not has_rows and not (num_labels == 1 and labels.shape == (batch_size,)):
            raise ValueError(
                f"`labels` must have the shape {(batch_size, num_labels)} with `problem_type` {problem_type!r}, "
                f"{given}."
            )
        if not labels.is_floating_point():
            raise ValueError(f"`labels` must be floating-point with `problem_type` {problem_type!r}, {given}.")
        return labels, problem_type
    if labels.is_floating_point():
        if not has_rows:
            raise ValueError(
                f"`labels` must be {batch_size} integers, or probabilities of shape {(batch_size, num_labels)}, "
                f"{given}."
            )
        return labels, problem_type
    if labels.numel() != batch_size or labels.dim() == 0:
        raise ValueError(f"`labels` must be one integer for each of the {batch_size} images, {given}.")
    labels = labels.long()
    if can_look:
        is_wrong = ((labels < 0) | (labels >= num_labels)) & (labels != IGNORED_LABEL)
        if bool(is_wrong.any()):
            raise ValueError(
                f"`labels` must be from 0 to {num_labels - 1} (`num_labels` is {num_labels}), "
                f"but got {labels[is_wrong][0].item()}."
            )
    return labels, problem_type
