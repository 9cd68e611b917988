"""What a forward refuses, each with one line, before anything is computed or written."""

import torch

from .configuration_ait import AiTConfig


# What cross-entropy leaves out.
IGNORED_LABEL = -100


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
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"`{name}` must be a tensor, but got {type(tensor).__name__}.")
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"`{name}` must hold real numbers, but got {tensor.dtype}.")
        if device is not None and tensor.device != device:
            raise ValueError(
                f"`{name}` is on {tensor.device}, but the model on {device}: move it with `.to({device})`."
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


def check_labels(labels: torch.Tensor, batch_size: int, config: AiTConfig) -> torch.Tensor:
    """
    Return the labels as the loss takes them, or raise a `ValueError` that says what was given and allowed.

    Where `config.problem_type` is not set, the labels decide it, as in transformers: integers are classes. Rows of
    numbers that sum to 1 are probabilities of classes (mixup); transformers takes them for independent targets.

    Args:
        labels: Classes `(batch_size,)`, or targets `(batch_size, num_labels)`.
        batch_size: Number of images.
        config: Configuration. Its `problem_type` is set if it was `None`.
    """
    num_labels = config.num_labels or 0
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"`labels` must be a tensor, but got {type(labels).__name__}.")
    if num_labels < 1:
        raise ValueError("This model has no classes (`num_labels` is 0), so it takes no `labels`.")
    given = f"but got {labels.dtype} of shape {tuple(labels.shape)}"
    if labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"`labels` must be integers or real numbers, {given}.")
    has_rows = labels.shape == (batch_size, num_labels)
    if config.problem_type is None:
        if num_labels == 1:
            config.problem_type = "regression"
        elif not labels.is_floating_point() or (has_rows and bool(((labels.sum(-1) - 1).abs() < 1e-3).all())):
            config.problem_type = "single_label_classification"
        else:
            config.problem_type = "multi_label_classification"
    if config.problem_type != "single_label_classification":
        if not has_rows and not (num_labels == 1 and labels.shape == (batch_size,)):
            raise ValueError(
                f"`labels` must have the shape {(batch_size, num_labels)} with `problem_type` "
                f"{config.problem_type!r}, {given}."
            )
        if not labels.is_floating_point():
            raise ValueError(f"`labels` must be floating-point with `problem_type` {config.problem_type!r}, {given}.")
        return labels
    if labels.is_floating_point():
        if not has_rows:
            raise ValueError(
                f"`labels` must be {batch_size} integers, or probabilities of shape {(batch_size, num_labels)}, "
                f"{given}."
            )
        return labels
    if labels.numel() != batch_size or labels.dim() == 0:
        raise ValueError(f"`labels` must be one integer for each of the {batch_size} images, {given}.")
    # Elsewhere than on the CPU a look at the values would wait for the device.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        is_wrong = ((labels < 0) | (labels >= num_labels)) & (labels != IGNORED_LABEL)
        if bool(is_wrong.any()):
            raise ValueError(
                f"`labels` must be from 0 to {num_labels - 1} (`num_labels` is {num_labels}), "
                f"but got {labels[is_wrong][0].item()}."
            )
    return labels.long()
