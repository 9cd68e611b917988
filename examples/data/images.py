"""The way from an encoded image to `pixel_values`: decoding, resizing, augmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from transformers import ViTImageProcessorPil

from examples.data.arguments import DataArguments
from examples.data.augmentation import (
    AUTO_AUGMENTS,
    draw_boxes,
    draw_crops,
    draw_mixture,
    draw_operations,
    draw_turns,
    make_generators,
)
from examples.data.batches import ClassificationBatch, DrawnImages, normalize
from examples.data.decoding import decode_image
from examples.data.loading import ROW_COLUMN, ImageData
from examples.data.storage import choose_place, hold
from examples.data.streaming import StreamedImages
from examples.errors import InputError


# The random stream that mixes samples, apart from the one of each image, which crops, flips and so on.
MIXING = 1
CPU = torch.device("cpu")


def collate_batch(samples: Any) -> Any:
    """Pass on a batch that a data set has made in one piece, and stack samples that came one by one."""
    is_whole = isinstance(samples, Mapping | ClassificationBatch)
    return samples if is_whole else torch.utils.data.default_collate(samples)


class ImagePixelsDataset(torch.utils.data.Dataset):
    """
    The images of a column as the model takes them, (num_channels, height, width), augmented where it is asked for.

    Augmentation is drawn from a stream of its own for each (seed, epoch, index): it does not depend on workers, on
    processes, on batches, or on whether the run was resumed. `set_epoch` says which epoch it is.

    Args:
        data: Rows with the encoded images.
        image_column: Where they are.
        processor: Says the size and the statistics.
        crop_padding: Pixels of padding before a random crop. 0: no crop.
        horizontal_flip: Whether half of the images are flipped.
        seed: Of the augmentation.
        cache: Whether each image is decoded once and held as bytes, see `choose_place`; the samples are the same.
        auto_augment: "trivialaugment" or "randaugment", or `None` for none.
        random_erasing: Share of the images of which a rectangle is erased.
        quarter_turns: Whether images are turned by 0 to 3 quarters of a circle.

    Raises:
        InputError: if images are to be turned that are not square, or the model takes no RGB images.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        image_column: str,
        processor: ViTImageProcessorPil,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
        cache: bool | None = False,
        auto_augment: str | None = None,
        random_erasing: float | None = None,
        quarter_turns: bool = False,
    ):
        if quarter_turns and processor.size["height"] != processor.size["width"]:
            size = f"{processor.size['height']} x {processor.size['width']}"
            raise InputError(f"`--quarter_turns` needs square images, but the model takes {size} pixels.")
        if (num_channels := len(processor.image_mean)) != 3:
            raise InputError(f"Data sets give RGB images of 3 channels, but the model takes {num_channels}.")
        self.data = data
        self.image_column = image_column
        self.processor = processor
        self.crop_padding = crop_padding
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        self.auto_augment = auto_augment
        self.random_erasing = random_erasing
        self.quarter_turns = quarter_turns
        # Shared, so that workers that outlive an epoch see the next one.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()
        statistics = zip(processor.image_mean, processor.image_std)
        mean, std = torch.tensor(list(statistics), dtype=torch.float32).T[:, :, None]
        # Rounded once, as the processor does it, so that the result is the same to the last bit.
        levels = (torch.arange(256, dtype=torch.float64) * processor.rescale_factor).float()
        # What each byte of each channel becomes, one channel after the other.
        self.values = ((levels - mean) / std).flatten()
        self.cached: torch.Tensor | None = None
        if len(data) > 0 and cache is not False:
            shape = tuple(self.read(0).shape)
            place = choose_place(len(data) * int(np.prod(shape)), cache)
            self.cached = None if place is None else hold(self.read, len(data), shape, place)

    def __len__(self) -> int:
        return len(self.data)

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def read(self, index: int) -> torch.Tensor:
        """Decode and resize one image, as uint8 (num_channels, height, width)."""
        sample = self.data[index]
        return self.convert(
            sample[self.image_column], f"row {sample.get(ROW_COLUMN, index)} of column {self.image_column!r}"
        )

    def convert(self, encoded: dict | None, where: str) -> torch.Tensor:
        """Decode and resize an image as `datasets` stores it; `where` names it in messages."""
        image = decode_image(encoded, where).convert("RGB")
        pixels = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        return pixels["pixel_values"][0].to(torch.uint8)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.get_batch([index])[0]

    def get_batch(self, indices: Sequence[int]) -> torch.Tensor:
        """The images of some indices at once, (len(indices), num_channels, height, width)."""
        return self.draw_batch(indices).finish(CPU)

    def draw_batch(self, indices: Sequence[int]) -> DrawnImages:
        """The images of some indices as bytes, with what is drawn for them."""
        if self.cached is None:
            pixels = torch.stack([self.read(index) for index in indices])
        else:
            pixels = self.cached.index_select(0, torch.as_tensor(indices, device=self.cached.device))
        return self.draw(pixels, indices)

    def draw(self, pixels: torch.Tensor, indices: Sequence[int]) -> DrawnImages:
        """Draw the augmentation of the bytes of some indices, (len(indices), num_channels, height, width)."""
        is_changed = self.crop_padding or self.horizontal_flip or self.quarter_turns
        if not (is_changed or self.auto_augment or self.random_erasing):
            return DrawnImages(pixels, self.values)
        generators = make_generators(self.seed, int(self.epoch), indices)
        crops, turns, operations, erased = None, None, None, None
        # Each generator is drawn from in this order.
        if self.crop_padding or self.horizontal_flip:
            crops = draw_crops(self.crop_padding, self.horizontal_flip, generators)
        if self.quarter_turns:
            turns = draw_turns(generators)
        if self.auto_augment:
            operations = draw_operations(AUTO_AUGMENTS[self.auto_augment], generators)
        if self.random_erasing:
            erased = draw_boxes(self.random_erasing, pixels.shape[2], pixels.shape[3], generators)
        return DrawnImages(pixels, self.values, self.crop_padding, crops, turns, self.auto_augment, operations, erased)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn bytes ([batch_size,] num_channels, height, width) into what the model takes."""
        return normalize(pixels, self.values)


class ImageClassificationDataset(torch.utils.data.Dataset):
    """
    Samples as the model takes them: `pixel_values` (num_channels, height, width) and `labels` ().

    A loader with `collate_batch` gets whole batches. With `mixup_alpha` or `cutmix_alpha` each sample is mixed with
    another of the whole set, and `labels` are (num_labels,) shares of the classes. The other sample, augmented as it
    is by itself, and the shares are drawn from a stream of (seed, epoch, index).

    With `on_device` a batch is bytes and what was drawn, and becomes these samples where it is moved, by `to`.
    """

    def __init__(
        self,
        pixels: ImagePixelsDataset,
        labels: list[int],
        mixup_alpha: float | None = None,
        cutmix_alpha: float | None = None,
        num_labels: int | None = None,
        on_device: bool = False,
    ):
        self.pixels = pixels
        self.labels = labels
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.on_device = on_device
        self.classes = torch.tensor(labels)
        self.num_labels = max(labels, default=-1) + 1 if num_labels is None else num_labels

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.draw_batch([index]).to(CPU).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor] | ClassificationBatch:
        """The samples of some indices at once, each entry with a first dimension of their number."""
        batch = self.draw_batch(indices)
        return batch if self.on_device else batch.to(CPU)

    def draw_batch(self, indices: Sequence[int]) -> ClassificationBatch:
        """The samples of some indices, to be made ready."""
        images, classes = self.pixels.draw_batch(indices), self.classes[torch.as_tensor(indices)]
        if self.mixup_alpha is None and self.cutmix_alpha is None:
            return ClassificationBatch(images, classes)
        generators = make_generators(self.pixels.seed, int(self.pixels.epoch), indices, MIXING)
        partners = [int(random.integers(len(self))) for random in generators]
        shape = tuple(images.pixels.shape[2:])
        drawn = [draw_mixture(random, self.mixup_alpha, self.cutmix_alpha, shape) for random in generators]
        kept, boxes = np.array([share for share, _ in drawn]), np.array([box for _, box in drawn])
        one_hot, share = torch.eye(self.num_labels), torch.from_numpy(kept).float()[:, None]
        labels = share * one_hot[classes] + (1 - share) * one_hot[self.classes[torch.as_tensor(partners)]]
        return ClassificationBatch(images, labels, self.pixels.draw_batch(partners), kept, boxes)


def is_made_ready_on(device: torch.device, arguments: DataArguments) -> bool:
    """
    Whether batches are made ready on the model's device: where it is asked for, else on a GPU, but not in a stream.

    Raises:
        InputError: where it is asked for and cannot be.
    """
    if arguments.augment_on_device and device.type not in ("cpu", "cuda"):
        raise InputError(
            f"`--augment_on_device` is for CUDA (or a CPU), but the model is on {device.type!r}: leave it out."
        )
    if arguments.augment_on_device is None:
        return device.type == "cuda" and not arguments.streaming
    return arguments.augment_on_device


def make_datasets(
    data: ImageData,
    arguments: DataArguments,
    processor: ViTImageProcessorPil,
    seed: int,
    device: torch.device = CPU,
) -> tuple[ImageClassificationDataset | StreamedImages, ImageClassificationDataset]:
    """
    Wrap the training split, with augmentation, and the evaluation split, without.

    Args:
        data: Both splits.
        arguments: Augmentation, and how images are held.
        processor: Says the size and the statistics.
        seed: Of the augmentation.
        device: The model's, see `is_made_ready_on`.
    """
    cache, on_device = arguments.cache_images, is_made_ready_on(device, arguments)
    train_pixels = ImagePixelsDataset(
        data.train,
        data.image_column,
        processor,
        arguments.crop_padding,
        arguments.horizontal_flip,
        seed,
        cache if data.shards is None else False,
        arguments.auto_augment,
        arguments.random_erasing,
        arguments.quarter_turns,
    )
    eval_pixels = ImagePixelsDataset(data.evaluation, data.image_column, processor, cache=cache)
    eval_labels = data.evaluation[data.label_column][:]
    evaluation = ImageClassificationDataset(eval_pixels, eval_labels, on_device=on_device)
    if data.shards is not None:
        columns = (data.image_column, data.label_column, ROW_COLUMN)
        buffer_size = arguments.shuffle_buffer_size
        return StreamedImages(data.shards, data.train, train_pixels, *columns, seed, buffer_size), evaluation
    train = ImageClassificationDataset(
        train_pixels,
        data.train[data.label_column][:],
        arguments.mixup_alpha,
        arguments.cutmix_alpha,
        len(data.label_names),
        on_device,
    )
    return train, evaluation
