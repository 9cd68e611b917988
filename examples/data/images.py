"""The way from an encoded image to `pixel_values`: decoding, resizing, augmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from transformers import ViTImageProcessorPil

from examples.data.arguments import DataArguments
from examples.data.augmentation import (
    augment_trivially,
    crop_and_flip,
    draw_mixture,
    erase,
    make_generators,
    mix,
)
from examples.data.decoding import decode_image
from examples.data.loading import ROW_COLUMN, ImageData
from examples.data.storage import choose_place, hold
from examples.data.streaming import StreamedImages


# The random stream that mixes samples, apart from the one of each image, which crops, flips and so on.
MIXING = 1


def collate_batch(samples: Any) -> Any:
    """Pass on a batch that a data set has made in one piece, and stack samples that came one by one."""
    return samples if isinstance(samples, Mapping) else torch.utils.data.default_collate(samples)


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
        auto_augment: "trivialaugment", or `None` for none.
        random_erasing: Share of the images of which a rectangle is erased.
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
    ):
        self.data = data
        self.image_column = image_column
        self.processor = processor
        self.crop_padding = crop_padding
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        self.auto_augment = auto_augment
        self.random_erasing = random_erasing
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
        if self.cached is None:
            pixels = torch.stack([self.read(index) for index in indices])
        else:
            pixels = self.cached.index_select(0, torch.as_tensor(indices, device=self.cached.device))
        return self.finish(pixels, indices)

    def finish(self, pixels: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        """Augment and normalize the bytes of some indices, (len(indices), num_channels, height, width)."""
        if not (self.crop_padding or self.horizontal_flip or self.auto_augment or self.random_erasing):
            return self.normalize(pixels)
        generators = make_generators(self.seed, int(self.epoch), indices)
        if self.crop_padding or self.horizontal_flip:
            pixels = crop_and_flip(pixels, self.crop_padding, self.horizontal_flip, generators)
        if self.auto_augment:
            pixels = augment_trivially(pixels, generators)
        values = self.normalize(pixels)
        return erase(values, self.random_erasing, generators) if self.random_erasing else values

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn bytes ([batch_size,] num_channels, height, width) into what the model takes."""
        first = 256 * torch.arange(pixels.shape[-3], dtype=torch.int32, device=pixels.device)[:, None, None]
        places = pixels.int() + first
        return self.values.to(pixels.device).index_select(0, places.flatten()).view(pixels.shape)


class ImageClassificationDataset(torch.utils.data.Dataset):
    """
    Samples as the model takes them: `pixel_values` (num_channels, height, width) and `labels` ().

    A loader with `collate_batch` gets whole batches. With `mixup_alpha` or `cutmix_alpha` each sample is mixed with
    another of the whole set, and `labels` are (num_labels,) shares of the classes. The other sample, augmented as it
    is by itself, and the shares are drawn from a stream of (seed, epoch, index).
    """

    def __init__(
        self,
        pixels: ImagePixelsDataset,
        labels: list[int],
        mixup_alpha: float | None = None,
        cutmix_alpha: float | None = None,
        num_labels: int | None = None,
    ):
        self.pixels = pixels
        self.labels = labels
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.classes = torch.tensor(labels)
        self.num_labels = max(labels, default=-1) + 1 if num_labels is None else num_labels

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The samples of some indices at once, each entry with a first dimension of their number."""
        values, classes = self.pixels.get_batch(indices), self.classes[torch.as_tensor(indices)]
        if self.mixup_alpha is None and self.cutmix_alpha is None:
            return {"pixel_values": values, "labels": classes}
        generators = make_generators(self.pixels.seed, int(self.pixels.epoch), indices, MIXING)
        partners = [int(random.integers(len(self))) for random in generators]
        shape = (values.shape[2], values.shape[3])
        drawn = [draw_mixture(random, self.mixup_alpha, self.cutmix_alpha, shape) for random in generators]
        kept, boxes = np.array([share for share, _ in drawn]), np.array([box for _, box in drawn])
        pixel_values = mix(values, self.pixels.get_batch(partners), kept, boxes)
        one_hot, share = torch.eye(self.num_labels), torch.from_numpy(kept).float()[:, None]
        labels = share * one_hot[classes] + (1 - share) * one_hot[self.classes[torch.as_tensor(partners)]]
        return {"pixel_values": pixel_values, "labels": labels}


def make_datasets(
    data: ImageData, arguments: DataArguments, processor: ViTImageProcessorPil, seed: int
) -> tuple[ImageClassificationDataset | StreamedImages, ImageClassificationDataset]:
    """Wrap the training split, with augmentation, and the evaluation split, without."""
    cache = arguments.cache_images
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
    )
    eval_pixels = ImagePixelsDataset(data.evaluation, data.image_column, processor, cache=cache)
    evaluation = ImageClassificationDataset(eval_pixels, data.evaluation[data.label_column][:])
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
    )
    return train, evaluation
