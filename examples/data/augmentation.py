"""
Augmentations of a batch of images: what is drawn, on the CPU, and what is done with it, on any device.

Each draws from one random generator per sample and from it alone, so that a sample is the same in every batch and on
every device. What is done needs no answer from the device, so that a GPU is never waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from examples.data.pillow_operations import (
    autocontrast,
    blend,
    equalize,
    posterize,
    send,
    smooth,
    solarize,
    take_grey_levels,
    take_mean_grey,
    warp,
)


Generators = Sequence[np.random.Generator]

# Strengths are of this many levels, from none to the largest.
NUM_LEVELS = 31
# Random erasing, Zhong et al. (2020): shares of the area, and ratios of height to width.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def make_generators(seed: int, epoch: int, indices: Sequence[int], stream: int | None = None) -> Generators:
    """Make the random generator of each sample, which depends on seed, epoch and index alone; or another `stream`."""
    last = [] if stream is None else [stream]
    return [np.random.default_rng([seed, epoch, index, *last]) for index in indices]


def draw_crops(crop_padding: int, flips: bool, generators: Generators) -> tuple[np.ndarray, np.ndarray]:
    """Draw the corner (left, top) of a random crop, (B, 2), and whether the image is flipped, (B,), half of them."""
    corners, is_flipped = np.zeros((len(generators), 2), dtype=np.int64), np.zeros(len(generators), dtype=bool)
    if crop_padding:
        corners = np.stack([random.integers(0, 2 * crop_padding + 1, size=2) for random in generators])
    if flips:
        is_flipped = np.array([random.random() < 0.5 for random in generators])
    return corners, is_flipped


def crop_and_flip(
    pixels: torch.Tensor, crop_padding: int, corners: np.ndarray, is_flipped: np.ndarray
) -> torch.Tensor:
    """
    Pad with black and crop at the corners, then flip some images left to right; any values (B, C, H, W).

    At the model's resolution, so that the padding counts the pixels that the model sees.
    """
    batch_size, num_channels, height, width = pixels.shape
    if crop_padding:
        pixels = torch.nn.functional.pad(pixels, [crop_padding] * 4)
    left, top = send(torch.from_numpy(corners), pixels.device)[..., None].unbind(1)
    there = torch.arange(width, device=pixels.device)
    flips = send(torch.from_numpy(is_flipped), pixels.device)[:, None]
    columns = torch.where(flips, width - 1 - there, there) + left
    rows = torch.arange(height, device=pixels.device) + top
    places = (rows[:, :, None] * pixels.shape[-1] + columns[:, None, :]).flatten(1)[:, None]
    taken = pixels.flatten(2).gather(2, places.expand(-1, num_channels, -1))
    return taken.view(batch_size, num_channels, height, width)


def draw_turns(generators: Generators) -> np.ndarray:
    """Draw by how many quarters of a circle each image is turned, 0 to 3, (B,)."""
    return np.array([random.integers(0, 4) for random in generators], dtype=np.int64)


def turn(pixels: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Turn images (B, C, height, height) counter-clockwise by so many quarters of a circle."""
    all_turns = torch.stack([pixels.rot90(number, dims=(2, 3)) for number in range(4)])
    return all_turns[send(torch.from_numpy(turns), pixels.device), torch.arange(len(pixels), device=pixels.device)]


@dataclass(frozen=True)
class Largest:
    """
    What the operations do at the largest strength.

    Args:
        shift: Pixels, at most the whole image, or with `is_share` a share of the image.
        shear: Pixels to the side for each pixel from the centre.
        angle: Degrees.
        enhancement: How far the share of the image in a blend is from 1.
        bits: How many are left.
        is_share: What `shift` is.
    """

    shift: float
    shear: float
    angle: float
    enhancement: float
    bits: int
    is_share: bool = False


def shift(pixels: torch.Tensor, strength: torch.Tensor, axis: int, largest: Largest) -> torch.Tensor:
    """Move to the left or upwards."""
    size = pixels.shape[3 - axis]
    matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(pixels), 1, 1)
    length = largest.shift * size if largest.is_share else min(largest.shift, size)
    matrix[:, axis, 2] = (strength * length).round()
    return warp(pixels, matrix)


def shear(pixels: torch.Tensor, strength: torch.Tensor, axis: int, largest: Largest) -> torch.Tensor:
    """Shear about the centre."""
    matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(pixels), 1, 1)
    matrix[:, axis, 1 - axis] = strength * largest.shear
    return warp(pixels, matrix)


def rotate(pixels: torch.Tensor, strength: torch.Tensor, largest: Largest) -> torch.Tensor:
    """Rotate about the centre."""
    angle = torch.deg2rad(strength * largest.angle)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [torch.stack([cosine, sine, zero], dim=1), torch.stack([-sine, cosine, zero], dim=1)]
    return warp(pixels, torch.stack(rows, dim=1))


def enhance(pixels: torch.Tensor, degenerate: torch.Tensor, strength: torch.Tensor, largest: Largest) -> torch.Tensor:
    """Blend with a degenerate image, or away from it."""
    return blend(degenerate, pixels, 1 + strength * largest.enhancement)


# Each takes bytes (n, 3, H, W), strengths (n,) in [-1, 1], on the CPU, and what the largest does.
OPERATIONS: tuple[Callable[[torch.Tensor, torch.Tensor, Largest], torch.Tensor], ...] = (
    lambda pixels, strength, largest: pixels,
    lambda pixels, strength, largest: shear(pixels, strength, 0, largest),
    lambda pixels, strength, largest: shear(pixels, strength, 1, largest),
    lambda pixels, strength, largest: shift(pixels, strength, 0, largest),
    lambda pixels, strength, largest: shift(pixels, strength, 1, largest),
    rotate,
    lambda pixels, strength, largest: enhance(pixels, torch.zeros_like(pixels), strength, largest),
    lambda pixels, strength, largest: enhance(pixels, take_grey_levels(pixels).expand_as(pixels), strength, largest),
    lambda pixels, strength, largest: enhance(pixels, take_mean_grey(pixels).expand_as(pixels), strength, largest),
    lambda pixels, strength, largest: enhance(pixels, smooth(pixels), strength, largest),
    lambda pixels, strength, largest: posterize(pixels, 8 - ((8 - largest.bits) * strength.abs()).round().long()),
    lambda pixels, strength, largest: solarize(pixels, 255 * (1 - strength.abs())),
    lambda pixels, strength, largest: autocontrast(pixels),
    lambda pixels, strength, largest: equalize(pixels),
)


@dataclass(frozen=True)
class AutoAugment:
    """
    How operations are drawn.

    Args:
        num_operations: How many are applied to an image, one after the other, each drawn from all.
        level: Of their strength, of `NUM_LEVELS`, from 0; `None` draws it.
        largest: What the largest strength does.
    """

    num_operations: int
    level: int | None
    largest: Largest


AUTO_AUGMENTS = {
    # The wide one of Müller and Hutter (2021).
    "trivialaugment": AutoAugment(1, None, Largest(32, 0.99, 135.0, 0.99, 2)),
    # Cubuk et al. (2020), with the numbers that torchvision has by default.
    "randaugment": AutoAugment(2, 9, Largest(150 / 331, 0.3, 30.0, 0.9, 4, is_share=True)),
}


def draw_operations(augment: AutoAugment, generators: Generators) -> tuple[np.ndarray, np.ndarray]:
    """Draw which operations an image gets and how strong, in [-1, 1], both (num_operations, B)."""
    lowest = 0 if augment.level is None else augment.level
    highest = NUM_LEVELS if augment.level is None else augment.level + 1
    low, high = (0, lowest, 0), (len(OPERATIONS), highest, 2)
    drawn = [[random.integers(low, high) for random in generators] for _ in range(augment.num_operations)]
    operations, levels, signs = np.moveaxis(np.array(drawn), -1, 0)
    return operations, (2 * signs - 1) * levels / (NUM_LEVELS - 1)


def operate(pixels: torch.Tensor, operations: np.ndarray, strengths: np.ndarray, largest: Largest) -> torch.Tensor:
    """Apply the operations that were drawn, see `draw_operations`, to bytes (B, 3, H, W)."""
    for chosen, strength in zip(operations, strengths):
        order = np.argsort(chosen, kind="stable")
        there, sorted_strength = send(torch.from_numpy(order), pixels.device), torch.from_numpy(strength[order])
        counts = np.bincount(chosen, minlength=len(OPERATIONS))
        pixels = pixels.index_select(0, there)
        parts = zip(OPERATIONS, pixels.split(counts.tolist()), sorted_strength.split(counts.tolist()))
        changed = [operation(part, levels, largest) for operation, part, levels in parts if len(part)]
        pixels = torch.empty_like(pixels).index_copy_(0, there, torch.cat(changed))
    return pixels


def make_box_masks(boxes: np.ndarray, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Which pixels lie in boxes (B, 4) of top, bottom, left, right -> (B, 1, H, W)."""
    top, bottom, left, right = send(torch.from_numpy(boxes), device)[..., None].unbind(1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def draw_boxes(probability: float, height: int, width: int, generators: Generators) -> np.ndarray:
    """Draw the rectangle that is erased, for that share of the images, (B, 4); of the others it is empty."""
    boxes = np.zeros((len(generators), 4), dtype=np.int64)
    for row, random in enumerate(generators):
        if random.random() < probability:
            area = random.uniform(*ERASED_AREA) * height * width
            ratio = np.exp(random.uniform(*np.log(ERASED_RATIO)))
            # One that does not fit is as long as the image.
            rows = min(max(round(np.sqrt(area * ratio)), 1), height)
            columns = min(max(round(np.sqrt(area / ratio)), 1), width)
            top, left = random.integers(0, (height - rows + 1, width - columns + 1))
            boxes[row] = top, top + rows, left, left + columns
    return boxes


def erase(values: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
    """Set the boxes (B, 4) to 0, the mean colour of normalised values (B, C, H, W)."""
    return values.masked_fill(make_box_masks(boxes, values.shape[2], values.shape[3], values.device), 0)


def draw_mixture(random: np.random.Generator, mixup_alpha: float | None, cutmix_alpha: float | None, shape):
    """
    Draw how a sample is mixed with another: (share that it keeps, box that the other fills).

    With mixup (Zhang et al., 2018) the box is empty; with cutmix (Yun et al., 2019) the share is what the box leaves.
    With both, half of the samples take each.
    """
    height, width = shape
    cuts = cutmix_alpha is not None and (mixup_alpha is None or random.random() < 0.5)
    kept = random.beta(alpha, alpha) if (alpha := cutmix_alpha if cuts else mixup_alpha) else 1.0
    if not cuts:
        return kept, (0, 0, 0, 0)
    rows, columns = np.sqrt(1 - kept) * np.array([height, width])
    middle_row, middle_column = random.random(2) * [height, width]
    top, bottom = (int(np.clip(round(middle_row + side * rows / 2), 0, height)) for side in (-1, 1))
    left, right = (int(np.clip(round(middle_column + side * columns / 2), 0, width)) for side in (-1, 1))
    return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)


def mix(values: torch.Tensor, others: torch.Tensor, kept: np.ndarray, boxes: np.ndarray) -> torch.Tensor:
    """Mix images (B, C, H, W) with others: fill the boxes (B, 4) from them, or blend where a box is empty."""
    share = send(torch.from_numpy(kept).to(values.dtype), values.device)[:, None, None, None]
    is_cut = send(torch.from_numpy(boxes.any(axis=1)), values.device)[:, None, None, None]
    inside = make_box_masks(boxes, values.shape[2], values.shape[3], values.device)
    return torch.where(is_cut, torch.where(inside, others, values), share * values + (1 - share) * others)
