"""
Augmentations of a batch of images, on any device.

Each takes one random generator per sample and draws from it alone, so that a sample is the same in every batch. Where
generators are made on the CPU, only their draws travel.
"""

from collections.abc import Sequence

import numpy as np
import torch

from examples.data.pillow_operations import (
    autocontrast,
    blend,
    equalize,
    posterize,
    smooth,
    solarize,
    take_grey_levels,
    take_mean_grey,
    warp,
)


Generators = Sequence[np.random.Generator]

# TrivialAugment (wide), Müller and Hutter (2021): strengths are drawn from this many levels, from none to the largest.
NUM_LEVELS = 31
LARGEST_SHIFT, LARGEST_SHEAR, LARGEST_ANGLE, LARGEST_ENHANCEMENT, FEWEST_BITS = 32, 0.99, 135.0, 0.99, 2
# Random erasing, Zhong et al. (2020): shares of the area, and ratios of height to width.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def make_generators(seed: int, epoch: int, indices: Sequence[int], stream: int | None = None) -> Generators:
    """Make the random generator of each sample, which depends on seed, epoch and index alone; or another `stream`."""
    last = [] if stream is None else [stream]
    return [np.random.default_rng([seed, epoch, index, *last]) for index in indices]


def crop_and_flip(pixels: torch.Tensor, crop_padding: int, flips: bool, generators: Generators) -> torch.Tensor:
    """
    Pad with black and crop at random, then flip half of the images left to right; any values (B, C, H, W).

    At the model's resolution, so that the padding counts the pixels that the model sees.
    """
    batch_size, num_channels, height, width = pixels.shape
    corners, is_flipped = np.zeros((batch_size, 2), dtype=np.int64), np.zeros(batch_size, dtype=bool)
    if crop_padding:
        corners = np.stack([random.integers(0, 2 * crop_padding + 1, size=2) for random in generators])
        pixels = torch.nn.functional.pad(pixels, [crop_padding] * 4)
    if flips:
        is_flipped = np.array([random.random() < 0.5 for random in generators])
    columns = np.where(is_flipped[:, None], np.arange(width)[::-1], np.arange(width)) + corners[:, :1]
    rows = np.arange(height) + corners[:, 1:]
    places = torch.from_numpy(rows[:, :, None] * pixels.shape[-1] + columns[:, None, :]).to(pixels.device)
    places = places.flatten(1)[:, None].expand(-1, num_channels, -1)
    return pixels.flatten(2).gather(2, places).view(batch_size, num_channels, height, width)


def shift(pixels: torch.Tensor, strength: torch.Tensor, axis: int) -> torch.Tensor:
    """Move to the left or upwards by up to `LARGEST_SHIFT` pixels, at most the whole image."""
    matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(pixels), 1, 1)
    matrix[:, axis, 2] = (strength * min(LARGEST_SHIFT, pixels.shape[3 - axis])).round()
    return warp(pixels, matrix)


def shear(pixels: torch.Tensor, strength: torch.Tensor, axis: int) -> torch.Tensor:
    """Shear about the centre."""
    matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(pixels), 1, 1)
    matrix[:, axis, 1 - axis] = strength * LARGEST_SHEAR
    return warp(pixels, matrix)


def rotate(pixels: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Rotate about the centre."""
    angle = torch.deg2rad(strength * LARGEST_ANGLE)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [torch.stack([cosine, sine, zero], dim=1), torch.stack([-sine, cosine, zero], dim=1)]
    return warp(pixels, torch.stack(rows, dim=1))


def enhance(pixels: torch.Tensor, degenerate: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Blend with a degenerate image, or away from it."""
    return blend(degenerate, pixels, 1 + strength * LARGEST_ENHANCEMENT)


# Each takes bytes (n, 3, H, W) and strengths (n,) in [-1, 1].
OPERATIONS = (
    lambda pixels, strength: pixels,
    lambda pixels, strength: shear(pixels, strength, 0),
    lambda pixels, strength: shear(pixels, strength, 1),
    lambda pixels, strength: shift(pixels, strength, 0),
    lambda pixels, strength: shift(pixels, strength, 1),
    rotate,
    lambda pixels, strength: enhance(pixels, torch.zeros_like(pixels), strength),
    lambda pixels, strength: enhance(pixels, take_grey_levels(pixels).expand_as(pixels), strength),
    lambda pixels, strength: enhance(pixels, take_mean_grey(pixels).expand_as(pixels), strength),
    lambda pixels, strength: enhance(pixels, smooth(pixels), strength),
    lambda pixels, strength: posterize(pixels, 8 - ((8 - FEWEST_BITS) * strength.abs()).round().long()),
    lambda pixels, strength: solarize(pixels, 255 * (1 - strength.abs())),
    lambda pixels, strength: autocontrast(pixels),
    lambda pixels, strength: equalize(pixels),
)


def augment_trivially(pixels: torch.Tensor, generators: Generators) -> torch.Tensor:
    """Apply to each image, bytes (B, 3, H, W), one operation of one strength, both drawn (TrivialAugment)."""
    drawn = np.stack([random.integers(0, (len(OPERATIONS), NUM_LEVELS, 2)) for random in generators])
    strengths = torch.from_numpy((2 * drawn[:, 2] - 1) * drawn[:, 1] / (NUM_LEVELS - 1))
    augmented = pixels.clone()
    for operation in np.unique(drawn[:, 0]):
        chosen = torch.from_numpy(np.flatnonzero(drawn[:, 0] == operation))
        there = chosen.to(pixels.device)
        augmented[there] = OPERATIONS[operation](pixels[there], strengths[chosen])
    return augmented


def make_box_masks(boxes: np.ndarray, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Which pixels lie in boxes (B, 4) of top, bottom, left, right -> (B, 1, H, W)."""
    top, bottom, left, right = torch.from_numpy(boxes).to(device)[..., None].unbind(1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def erase(values: torch.Tensor, probability: float, generators: Generators) -> torch.Tensor:
    """Set a rectangle of that share of the images to 0, the mean colour of normalised values (B, C, H, W)."""
    batch_size, _, height, width = values.shape
    boxes = np.zeros((batch_size, 4), dtype=np.int64)
    for row, random in enumerate(generators):
        if random.random() < probability:
            area = random.uniform(*ERASED_AREA) * height * width
            ratio = np.exp(random.uniform(*np.log(ERASED_RATIO)))
            # One that does not fit is as long as the image.
            rows = min(max(round(np.sqrt(area * ratio)), 1), height)
            columns = min(max(round(np.sqrt(area / ratio)), 1), width)
            top, left = random.integers(0, (height - rows + 1, width - columns + 1))
            boxes[row] = top, top + rows, left, left + columns
    return values.masked_fill(make_box_masks(boxes, height, width, values.device), 0)


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
    share = torch.from_numpy(kept).to(values)[:, None, None, None]
    is_cut = torch.from_numpy(boxes.any(axis=1)).to(values.device)[:, None, None, None]
    inside = make_box_masks(boxes, values.shape[2], values.shape[3], values.device)
    return torch.where(is_cut, torch.where(inside, others, values), share * values + (1 - share) * others)
