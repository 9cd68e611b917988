"""The way from an encoded image to `pixel_values`: decoding, resizing, augmentation."""

import datasets
import numpy as np
import torch
from transformers import ViTImageProcessorPil

from examples.data.arguments import DataArguments
from examples.data.decoding import decode_image
from examples.data.loading import ROW_COLUMN, ImageData
from examples.data.streaming import StreamedImages


class ImagePixelsDataset(torch.utils.data.Dataset):
    """
    The images of a column as the model takes them, (num_channels, height, width), optionally cropped and flipped.

    Augmentation is drawn from a stream of its own for each (seed, epoch, index): it does not depend on workers, on
    processes, or on whether the run was resumed. `set_epoch` says which epoch it is. With `cache` every image is
    decoded and resized once and held as bytes; the samples are the same.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        image_column: str,
        processor: ViTImageProcessorPil,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
        cache: bool = False,
    ):
        self.data = data
        self.image_column = image_column
        self.processor = processor
        self.crop_padding = crop_padding
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        # Shared, so that workers that outlive an epoch see the next one.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()
        statistics = zip(processor.image_mean, processor.image_std)
        self.mean, self.std = torch.tensor(list(statistics), dtype=torch.float32).T[:, :, None, None]
        # Rounded once, as the processor does it, so that the result is the same to the last bit.
        self.levels = (torch.arange(256, dtype=torch.float64) * processor.rescale_factor).float()
        self.cached = torch.stack([self.read(index) for index in range(len(data))]) if cache else None

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
        return self.finish(self.read(index) if self.cached is None else self.cached[index], index)

    def finish(self, pixels: torch.Tensor, index: int) -> torch.Tensor:
        """Augment and normalize the bytes of the sample of this index."""
        if self.crop_padding or self.horizontal_flip:
            pixels = self.augment(pixels, np.random.default_rng([self.seed, int(self.epoch), index]))
        return self.normalize(pixels)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn bytes (num_channels, height, width) into what the model takes."""
        return (self.levels[pixels.int()] - self.mean) / self.std

    def augment(self, pixels: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Crop at the model's resolution, so that the padding counts the pixels that the model sees, and flip."""
        _, height, width = pixels.shape
        if self.crop_padding:
            left, top = random.integers(0, 2 * self.crop_padding + 1, size=2).tolist()
            pixels = torch.nn.functional.pad(pixels, [self.crop_padding] * 4)
            pixels = pixels[:, top : top + height, left : left + width]
        if self.horizontal_flip and random.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels


class ImageClassificationDataset(torch.utils.data.Dataset):
    """Samples as the model takes them: `pixel_values` (num_channels, height, width) and `labels` ()."""

    def __init__(self, pixels: ImagePixelsDataset, labels: list[int]):
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": torch.tensor(self.labels[index])}


def make_datasets(
    data: ImageData, arguments: DataArguments, processor: ViTImageProcessorPil, seed: int
) -> tuple[ImageClassificationDataset | StreamedImages, ImageClassificationDataset]:
    """Wrap the training split, with augmentation, and the evaluation split, without."""
    cache = arguments.cache_images
    train_pixels = ImagePixelsDataset(
        data.train, data.image_column, processor, arguments.crop_padding, arguments.horizontal_flip, seed, cache
    )
    eval_pixels = ImagePixelsDataset(data.evaluation, data.image_column, processor, cache=cache)
    evaluation = ImageClassificationDataset(eval_pixels, data.evaluation[data.label_column][:])
    if data.shards is not None:
        columns = (data.image_column, data.label_column, ROW_COLUMN)
        buffer_size = arguments.shuffle_buffer_size
        return StreamedImages(data.shards, data.train, train_pixels, *columns, seed, buffer_size), evaluation
    return ImageClassificationDataset(train_pixels, data.train[data.label_column][:]), evaluation
