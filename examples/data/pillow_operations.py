"""
What Pillow does to one image, on a batch of bytes (n, 3, H, W) on any device.

Sums are of integers, so that an image comes out the same in every batch. The kernels of torchvision's transforms give
what Pillow gives too, but each call of them takes one strength for all its images, where every image here has its own;
and what its transforms draw comes from one stream, which would make a sample depend on the workers.
"""

from typing import Any

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to a device; to a GPU from pinned memory, so that neither waits for the other."""
    if device.type != "cuda":
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def blend(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mix two batches of bytes, of the second `share` (n,), which may be above 1."""
    share = send(share.float(), first.device)[:, None, None, None]
    mixed = first + share * (second.float() - first)
    return mixed.clamp(0, 255).to(torch.uint8)


def take_grey_levels(pixels: torch.Tensor) -> torch.Tensor:
    """Luma of Pillow's mode L, (n, 3, H, W) -> (n, 1, H, W)."""
    red, green, blue = pixels.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)


def take_mean_grey(pixels: torch.Tensor) -> torch.Tensor:
    """Mean grey level of each image, rounded, (n, 3, H, W) -> (n, 1, 1, 1)."""
    total = take_grey_levels(pixels).sum(dim=(1, 2, 3), keepdim=True)
    count = pixels.shape[2] * pixels.shape[3]
    return ((2 * total + count) // (2 * count)).to(torch.uint8)


def smooth(pixels: torch.Tensor) -> torch.Tensor:
    """Mean with the eight neighbours, of which the centre counts five times; the border stays."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    levels = pixels.int()
    columns = levels[..., :-2, :] + levels[..., 1:-1, :] + levels[..., 2:, :]
    sums = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:] + 4 * levels[..., 1:-1, 1:-1]
    smoothed = pixels.clone()
    smoothed[..., 1:-1, 1:-1] = ((2 * sums + 13) // 26).to(torch.uint8)
    return smoothed


def posterize(pixels: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest `bits` (n,)."""
    masks = send((256 - 2 ** (8 - bits)).to(torch.uint8), pixels.device)
    return pixels & masks[:, None, None, None]


def solarize(pixels: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert what is not below `threshold` (n,)."""
    return torch.where(pixels >= send(threshold, pixels.device)[:, None, None, None], 255 - pixels, pixels)


def autocontrast(pixels: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to all levels; a channel of one level stays."""
    levels = pixels.float()
    low, high = levels.amin(dim=(2, 3), keepdim=True), levels.amax(dim=(2, 3), keepdim=True)
    stretched = ((levels - low) * (255 / (high - low).clamp(min=1))).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, pixels)


def equalize(pixels: torch.Tensor) -> torch.Tensor:
    """Spread the levels of each channel so that all are as frequent; a channel without a spread stays."""
    flat = pixels.flatten(2).long()  # (n, 3, H * W)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=pixels.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    highest = flat.amax(dim=2, keepdim=True)
    step = (flat.shape[2] - counts.gather(2, highest)) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)
    equalized = table.clamp(0, 255).gather(2, flat).to(torch.uint8).view_as(pixels)
    return torch.where((step > 0)[..., None], equalized, pixels)


def warp(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """
    Take each pixel from where a matrix (n, 2, 3) leads, the nearest, in coordinates (x, y) from the centre.

    What lies outside is black.
    """
    _, num_channels, height, width = pixels.shape
    # In float64, whose sums and products are rounded the same way on every device.
    options: dict[str, Any] = {"dtype": torch.float64, "device": pixels.device}
    x, y = torch.arange(width, **options) - (width - 1) / 2, torch.arange(height, **options) - (height - 1) / 2
    grid = torch.stack([x.repeat(height), y[:, None].expand(-1, width).flatten(), torch.ones_like(x).repeat(height)])
    # Summed term by term: a product of matrices may round otherwise in another batch.
    source = (send(matrix, pixels.device)[..., None] * grid).unbind(2)
    source_x, source_y = (source[0] + source[1] + source[2]).unbind(1)
    columns = (source_x + (width - 1) / 2 + 0.5).floor().long()
    rows = (source_y + (height - 1) / 2 + 0.5).floor().long()
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)  # (n, H * W)
    places = torch.where(is_inside, rows * width + columns, 0)
    taken = pixels.flatten(2).gather(2, places[:, None].expand(-1, num_channels, -1))
    return torch.where(is_inside[:, None], taken, 0).to(torch.uint8).view_as(pixels)
