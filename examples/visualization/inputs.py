"""What is looked at: images of one's own, or a data set with its labels or questions, as batches for a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate
from transformers import ViTImageProcessorPil

from examples.data.decoding import decode_image
from examples.data.images import ImageClassificationDataset, ImagePixelsDataset
from examples.data.loading import ImageData
from examples.data.questions import GroupedQuestionsDataset, QuestionsDataset
from examples.data.sort_of_clevr import QUESTION_TYPES, describe_question


@dataclass
class Inputs:
    """
    Batches to look at.

    Args:
        batches: Batches of `pixel_values`, and of one `question` for each image if there are any.
        texts: The questions about the first images, in words.
        labels: Indices of the classes or answers of the first images.
        labelled: Batches with `labels`, and with all questions about an image, to measure the accuracy with.
    """

    batches: list[dict[str, torch.Tensor]]
    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    labelled: list[dict[str, torch.Tensor]] = field(default_factory=list)


def make_batches(samples: Sequence[dict[str, torch.Tensor]], batch_size: int) -> list[dict[str, torch.Tensor]]:
    """Stack samples into batches."""
    starts = range(0, len(samples), batch_size)
    return [default_collate(list(samples[start : start + batch_size])) for start in starts]


def read_images(files: Sequence[str], processor: ViTImageProcessorPil, num_channels: int, batch_size: int) -> Inputs:
    """
    Open images as the model takes them.

    Raises:
        InputError: for a file that is no image.
    """
    encoded: list[dict[str, Any]] = [{"path": file, "bytes": None} for file in files]
    samples = [{"pixel_values": read_image(image, str(image["path"]), processor, num_channels)} for image in encoded]
    return Inputs(make_batches(samples, batch_size))


def read_image(
    encoded: dict[str, Any], where: str, processor: ViTImageProcessorPil, num_channels: int
) -> torch.Tensor:
    """
    Open an image, as `datasets` stores one, as the model takes it, (num_channels, height, width).

    Raises:
        InputError: if it is no image; `where` names it in the message.
    """
    options: dict[str, Any] = {"do_convert_rgb": False} if num_channels == 1 else {}
    image = decode_image(encoded, where).convert("L" if num_channels == 1 else "RGB")
    return processor(images=image, return_tensors="pt", **options)["pixel_values"][0]


def open_classes(
    data: ImageData,
    processor: ViTImageProcessorPil,
    indices: Sequence[int],
    num_samples: int,
    num_labelled: int,
    batch_size: int,
) -> Inputs:
    """The first images of the evaluation split; `indices` are what the model calls each class of the data set."""
    pixels = ImagePixelsDataset(data.evaluation, data.image_column, processor)
    dataset = ImageClassificationDataset(pixels, [indices[label] for label in data.evaluation[data.label_column][:]])
    samples = [dataset[row] for row in range(min(max(num_samples, num_labelled), len(dataset)))]
    labels = [int(sample["labels"]) for sample in samples]
    labelled = make_batches(samples[:num_labelled], batch_size)
    return Inputs(make_batches(samples[:num_samples], batch_size), labels=labels, labelled=labelled)


def open_questions(
    data: ImageData, processor: ViTImageProcessorPil, num_samples: int, num_labelled: int, batch_size: int
) -> Inputs:
    """The first images of the evaluation split, each with one question, of all types in turn."""
    part = data.evaluation.select(range(min(max(num_samples, num_labelled), len(data.evaluation))))
    pixels = ImagePixelsDataset(part, data.image_column, processor, cache=True)
    dataset = QuestionsDataset(part, pixels, list(QUESTION_TYPES))
    rows = choose_questions(dataset.image_indices)[:num_samples]
    samples = [dataset[row] for row in rows]
    texts = [describe_question(dataset.bits[row]) for row in rows]
    labels, labelled = [int(sample["labels"]) for sample in samples], []
    if num_labelled > 0:
        grouped = GroupedQuestionsDataset(part, pixels, list(QUESTION_TYPES))
        labelled = make_batches([grouped[row] for row in range(min(num_labelled, len(grouped)))], batch_size)
    return Inputs(make_batches(samples, batch_size), texts, labels, labelled)


def choose_questions(image_indices: np.ndarray) -> list[int]:
    """One question for each image: the first third, the second, the third, in turn, as they come by type."""
    chosen = []
    for number, image in enumerate(np.unique(image_indices)):
        rows = np.flatnonzero(image_indices == image)
        third = max(1, len(rows) // len(QUESTION_TYPES))
        turn, place = number % len(QUESTION_TYPES), number // len(QUESTION_TYPES) % third
        chosen.append(int(rows[min(turn * third + place, len(rows) - 1)]))
    return chosen


def make_restore(mean: Sequence[float], std: Sequence[float]) -> Callable[[torch.Tensor], np.ndarray]:
    """A function that turns `pixel_values` back into pictures (height, width, 3) from 0 to 1."""
    means, stds = (torch.tensor(list(values), dtype=torch.float32)[:, None, None] for values in (mean, std))

    def restore(pixel_values: torch.Tensor) -> np.ndarray:
        picture = (pixel_values.float().cpu() * stds + means).clamp(0, 1)
        return picture.expand(3, -1, -1).permute(1, 2, 0).numpy()

    return restore
