"""
Batches that are made ready on the model's device: bytes, and all that was drawn for them.

Bytes are a quarter of what the model takes. A step of 53,700 images of 32 x 32 pixels a second moves 165 MB/s, far
below what a card takes, so that the set itself need not be there.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from examples.data.augmentation import AUTO_AUGMENTS, crop_and_flip, erase, mix, operate, turn
from examples.data.pillow_operations import send


def normalize(pixels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Turn bytes ([batch_size,] C, H, W) into what the model takes: `values` (256 * C,), one channel after another."""
    first = 256 * torch.arange(pixels.shape[-3], dtype=torch.int32, device=pixels.device)[:, None, None]
    return send(values, pixels.device).index_select(0, (pixels.int() + first).flatten()).view(pixels.shape)


@dataclass(frozen=True)
class DrawnImages:
    """
    Bytes of images and what was drawn for each; see the functions of `examples.data.augmentation` for the draws.

    Args:
        pixels: Bytes (B, C, H, W).
        values: What each byte of each channel becomes, (256 * C,).
        crop_padding: Pixels of padding before the crop.
        crops: Corners and flips, or `None` for neither.
        turns: Quarters of a circle (B,), or `None` for none.
        auto_augment: Name of the automatic augmentation.
        operations: Its operations and their strengths, or `None` for none.
        erased: Boxes that are erased, or `None`.
    """

    pixels: torch.Tensor
    values: torch.Tensor
    crop_padding: int = 0
    crops: tuple[np.ndarray, np.ndarray] | None = None
    turns: np.ndarray | None = None
    auto_augment: str | None = None
    operations: tuple[np.ndarray, np.ndarray] | None = None
    erased: np.ndarray | None = None

    def pin_memory(self) -> Self:
        """Keep the bytes where a GPU can fetch them."""
        return replace(self, pixels=self.pixels.pin_memory())

    def finish(self, device: torch.device) -> torch.Tensor:
        """Augment and normalize on a device, (B, C, H, W)."""
        pixels = send(self.pixels, device)
        if self.crops is not None:
            pixels = crop_and_flip(pixels, self.crop_padding, *self.crops)
        if self.turns is not None:
            pixels = turn(pixels, self.turns)
        if self.operations is not None and self.auto_augment is not None:
            pixels = operate(pixels, *self.operations, AUTO_AUGMENTS[self.auto_augment].largest)
        values = normalize(pixels, self.values)
        return values if self.erased is None else erase(values, self.erased)


@dataclass(frozen=True)
class ClassificationBatch:
    """
    A batch of a loader, of which `to` makes what the model takes. Whatever moves tensors by `to` moves it too.

    Args:
        images: Images.
        labels: Classes (B,), or shares of the classes (B, num_labels).
        others: What the images are mixed with, or `None`.
        kept: Shares that they keep, (B,).
        boxes: Boxes that the others fill, (B, 4).
    """

    images: DrawnImages
    labels: torch.Tensor
    others: DrawnImages | None = None
    kept: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def pin_memory(self) -> Self:
        """Keep the tensors where a GPU can fetch them; a loader calls it."""
        others = None if self.others is None else self.others.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), others=others)

    def to(self, device: torch.device | str | int, non_blocking: bool = True) -> dict[str, torch.Tensor]:
        """
        Move to a device, and there make the samples ready: `pixel_values` (B, C, H, W) and `labels`.

        The device is not waited for, whatever `non_blocking` says: a loader's thread has pinned what is moved.
        """
        place = torch.device(device)
        values = self.images.finish(place)
        if self.others is not None and self.kept is not None and self.boxes is not None:
            values = mix(values, self.others.finish(place), self.kept, self.boxes)
        return {"pixel_values": values, "labels": send(self.labels, place)}
