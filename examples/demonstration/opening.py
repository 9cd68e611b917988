"""What the page shows: a checkpoint, and images of its data where they are at hand."""

import threading
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ViTImageProcessorPil
from transformers.utils.hub import cached_file

from examples.comparison.adaptation import Images
from examples.data.arguments import DataArguments
from examples.data.catalog import find_benchmark
from examples.data.images import ImagePixelsDataset
from examples.data.loading import EMBEDDED, ImageData, load_image_data
from examples.data.sort_of_clevr import ANSWERS, QUESTION_SIZE
from examples.errors import InputError
from examples.training.evaluation import choose_data, find_indices, is_unseen, read_record
from examples.training.loading import choose_class, load_checkpoint, load_image_processor
from examples.training.results import EXAMPLE_IMAGE
from examples.visualization.inputs import make_restore, read_image
from examples.visualization.measure import get_encoder
from modeling_ait import AiTPreTrainedModel


# Enough to tell that all classes of the training split are known.
NUM_TRAIN_GENERATED = 64


@dataclass
class Opened:
    """
    A checkpoint that is looked at.

    Args:
        name: What the page calls it.
        model: The model, in evaluation mode. Nothing of the page changes it.
        processor: Its image processor.
        label_names: The name of each class or answer, all different.
        images: Held-out images with their labels, if the checkpoint classifies and they are at hand.
        example: An image without a label, (num_channels, height, width), where there are no held-out ones.
        variant: Of Sort-of-CLEVR, for the truth, if the checkpoint answers questions.
        lock: Held while a model runs, which looking at it sets into another mode.
    """

    name: str
    model: AiTPreTrainedModel
    processor: ViTImageProcessorPil
    label_names: list[str]
    images: Images | None = None
    example: torch.Tensor | None = None
    variant: str = "fixed"
    lock: Any = field(default_factory=threading.Lock)

    @property
    def has_questions(self) -> bool:
        """Whether the checkpoint answers questions about images."""
        return self.model.config.question_size is not None

    @property
    def num_layers(self) -> int:
        """Layers with a memory."""
        return len(get_encoder(self.model).memories)

    def restore(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Turn `pixel_values` of an image back into a picture (height, width, 3) from 0 to 1."""
        return make_restore(self.processor.image_mean, self.processor.image_std)(pixel_values)

    def read(self, encoded: dict[str, Any], where: str) -> torch.Tensor:
        """Open an image as the model takes it, see `read_image`."""
        return read_image(encoded, where, self.processor, self.model.config.num_channels)


def name_labels(model: AiTPreTrainedModel) -> list[str]:
    """The names of the labels, told apart by their index where two are called alike."""
    listed = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    return [name if listed.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(listed)]


def are_unnamed(label_names: list[str]) -> bool:
    """Whether these are the names that a configuration makes up."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(label_names))


def refuse_flags(given: DataArguments, taken: tuple[str, ...], reason: str) -> None:
    """Raise an `InputError` for a flag about data that is given and has no effect, since only some are taken."""
    for one in fields(DataArguments):
        if one.name not in taken and getattr(given, one.name) != one.default:
            raise InputError(f"`--{one.name}` has no effect {reason}: leave it out.")


def is_at_hand(data: DataArguments) -> bool:
    """Whether a data set needs no download: the embedded and generated ones, and folders."""
    name, benchmark = str(data.dataset_name), find_benchmark(data.dataset_name)
    is_generated = benchmark is not None and benchmark.builder is not None
    return name in EMBEDDED or is_generated or Path(name).expanduser().is_dir()


def choose_images(checkpoint: str, given: DataArguments) -> DataArguments | None:
    """The data that are named, or else those that the run of a checkpoint has recorded, if they are at hand."""
    if given.dataset_name is not None:
        return given
    refuse_flags(given, (), "without `--dataset_name`")
    record = read_record(checkpoint)
    if record.get("arguments", {}).get("dataset_name") is None:
        return None
    recorded = choose_data(record, {})
    return recorded if is_at_hand(recorded) else None


def load_images(opened: Opened, checkpoint: str, arguments: DataArguments, num_images: int) -> Images:
    """
    The first held-out images of a data set as the model takes them; labels without a name get the data's.

    Raises:
        InputError: if it cannot be loaded, or has other classes.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.builder is not None:
        num_test = min(num_images, arguments.generator_test_size or benchmark.num_test)
        arguments = replace(arguments, generator_train_size=NUM_TRAIN_GENERATED, generator_test_size=num_test)
    is_new = is_unseen(read_record(checkpoint), arguments)
    data: ImageData = load_image_data(arguments, trains=False, is_unseen=is_new)
    indices = find_indices(checkpoint, opened.model.config.id2label or {}, data)
    if are_unnamed(opened.label_names):
        opened.label_names = list(data.label_names)
    evaluation = data.evaluation.select(range(min(num_images, len(data.evaluation))))
    pixels = ImagePixelsDataset(evaluation, data.image_column, opened.processor)
    labels = torch.tensor([indices[label] for label in evaluation[data.label_column][:]])
    return Images(pixels.get_batch(range(len(pixels))), labels)


def find_example(opened: Opened, checkpoint: str) -> torch.Tensor | None:
    """The image that a run has left beside its checkpoint, if it has."""
    file = cached_file(checkpoint, EXAMPLE_IMAGE, _raise_exceptions_for_missing_entries=False)
    return None if file is None else opened.read({"path": str(file), "bytes": None}, EXAMPLE_IMAGE)


def check_questions(opened: Opened, checkpoint: str, given: DataArguments) -> None:
    """
    Check that the questions are those of Sort-of-CLEVR, and find its variant.

    Raises:
        InputError: if they are others, or a data set of images is named.
    """
    config = opened.model.config
    refuse_flags(given, ("dataset_name", "dataset_config_name"), "where the page makes the scenes")
    if given.dataset_name not in (None, "sort_of_clevr"):
        raise InputError(f"{checkpoint!r} answers questions, which {given.dataset_name!r} has not: leave it out.")
    if config.question_size != QUESTION_SIZE or len(opened.label_names) != len(ANSWERS):
        raise InputError(
            f"{checkpoint!r} answers other questions than those of Sort-of-CLEVR: it takes {config.question_size} "
            f"numbers and has {len(opened.label_names)} answers, in place of {QUESTION_SIZE} and {len(ANSWERS)}."
        )
    if are_unnamed(opened.label_names):
        opened.label_names = list(ANSWERS)
    recorded = read_record(checkpoint).get("arguments", {}).get("dataset_config_name")
    opened.variant = given.dataset_config_name or recorded or opened.variant


def open_checkpoint(checkpoint: str, given: DataArguments, num_images: int) -> Opened:
    """
    Open a checkpoint and what the page shows with it.

    Args:
        checkpoint: Folder or Hub id.
        given: Data to take images of. By default those that the checkpoint was evaluated on, if they need no
            download.
        num_images: Images to hold, at most.

    Raises:
        InputError: if it cannot be loaded, has no memory, or does not fit the data.
    """
    model = load_checkpoint(checkpoint, choose_class(checkpoint), is_classifier_new=False).eval()
    get_encoder(model)
    processor = load_image_processor(checkpoint, model.config, given, is_resized=False)
    name = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint
    opened = Opened(name, model, processor, name_labels(model))
    if opened.has_questions:
        check_questions(opened, checkpoint, given)
        return opened
    data = choose_images(checkpoint, given)
    try:
        if data is not None:
            opened.images = load_images(opened, checkpoint, data, num_images)
    except InputError as error:
        if given.dataset_name is not None:
            raise
        print(f"The page comes without the images that the checkpoint was evaluated on: {error}")
    if opened.images is None:
        opened.example = find_example(opened, checkpoint)
    return opened
