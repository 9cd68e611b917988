"""Operations on a batch of bytes, against Pillow on each image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from examples.data.augmentation import AUTO_AUGMENTS, OPERATIONS, rotate, shear, shift
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


HEIGHT, WIDTH = 12, 17
LARGEST = AUTO_AUGMENTS["trivialaugment"].largest


@pytest.fixture
def pixels():
    """Noise, dark noise, one level, a ramp of few levels: (4, 3, 12, 17)."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    images[1] //= 5
    images[2] = [10, 200, 255]
    images[3] = np.arange(WIDTH)[None, :, None] * [3, 5, 15]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def open_images(pixels):
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in pixels]


def close_images(images):
    return torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)


def assert_close(ours, expected, tolerance=0):
    assert ours.dtype == torch.uint8
    assert (ours.int() - expected.int()).abs().max() <= tolerance


def test_grey_levels_are_those_of_pillow(pixels):
    expected = torch.from_numpy(np.stack([np.array(image.convert("L")) for image in open_images(pixels)]))
    assert_close(take_grey_levels(pixels)[:, 0], expected)
    means = [int(level.double().mean() + 0.5) for level in expected]
    assert take_mean_grey(pixels).flatten().tolist() == means


def test_smoothing_is_that_of_pillow(pixels):
    assert_close(smooth(pixels), close_images([image.filter(ImageFilter.SMOOTH) for image in open_images(pixels)]))
    assert torch.equal(smooth(pixels[..., :2]), pixels[..., :2])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1.99])
@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
def test_enhancements_are_those_of_pillow(name, share, pixels):
    degenerate = {
        "Brightness": torch.zeros_like(pixels),
        "Color": take_grey_levels(pixels).expand_as(pixels),
        "Contrast": take_mean_grey(pixels).expand_as(pixels),
        "Sharpness": smooth(pixels),
    }[name]
    expected = close_images([getattr(ImageEnhance, name)(image).enhance(share) for image in open_images(pixels)])
    # Both cut off fractions, of sums that are rounded otherwise.
    assert_close(blend(degenerate, pixels, torch.full((4,), share)), expected, tolerance=1)


def test_levels_are_changed_as_pillow_changes_them(pixels):
    images = open_images(pixels)
    bits = torch.tensor([8, 2, 4, 5])
    expected = [ImageOps.posterize(image, int(number)) for image, number in zip(images, bits)]
    assert_close(posterize(pixels, bits), close_images(expected))
    thresholds = torch.tensor([0.0, 20.0, 128.0, 255.0])
    expected = [ImageOps.solarize(image, float(level)) for image, level in zip(images, thresholds)]
    assert_close(solarize(pixels, thresholds), close_images(expected))
    assert_close(autocontrast(pixels), close_images([ImageOps.autocontrast(image) for image in images]), tolerance=1)


@pytest.mark.parametrize("repeats", [(1, 1), (3, 4)])
def test_equalization_is_that_of_pillow(repeats, pixels):
    """With fewer pixels than levels there is nothing to spread."""
    pixels = pixels.repeat(1, 1, *repeats)
    equalized = equalize(pixels)
    assert_close(equalized, close_images([ImageOps.equalize(image) for image in open_images(pixels)]))
    assert torch.equal(equalized, pixels) == (repeats == (1, 1))


def test_warp_is_that_of_pillow(pixels):
    """Pillow's coordinates are from the corner and at the middle of pixels; ours from the centre."""
    random = np.random.default_rng(1)
    matrices = np.concatenate([np.eye(2) + random.normal(0, 0.3, (4, 2, 2)), random.normal(0, 3, (4, 2, 1))], axis=2)
    centre = np.array([WIDTH, HEIGHT]) / 2
    expected = []
    for image, matrix in zip(open_images(pixels), matrices):
        offset = matrix[:, 2] + centre - matrix[:, :2] @ centre
        flat = np.column_stack([matrix[:, :2], offset]).flatten().tolist()
        expected.append(image.transform(image.size, Image.Transform.AFFINE, flat, Image.Resampling.NEAREST))
    ours = warp(pixels, torch.from_numpy(matrices))
    # Pillow computes in fixed point: a point between two pixels may go to either.
    assert (ours != close_images(expected)).any(dim=1).float().mean() < 0.01


def test_shapes_move_as_they_are_named(pixels):
    one, half_turn, five_pixels = torch.tensor([1.0]), torch.tensor([180 / 135]), torch.tensor([5 / 17])
    image = pixels[:1]
    assert torch.equal(rotate(image, half_turn, LARGEST), image.flip(-1, -2))
    square = image[..., :HEIGHT]
    # To the left: what was on the right is at the top.
    assert torch.equal(rotate(square, torch.tensor([-90 / 135]), LARGEST), square.rot90(1, (2, 3)))
    moved = shift(image, five_pixels, 0, LARGEST)
    assert torch.equal(moved[..., :-5], image[..., 5:]) and not moved[..., -5:].any()
    moved = shift(image, -torch.tensor([4 / 12]), 1, LARGEST)
    assert torch.equal(moved[..., 4:, :], image[..., :-4, :]) and not moved[..., :4, :].any()
    assert not shift(image, one, 0, LARGEST).any()
    sheared = shear(image[..., :11, :], torch.tensor([1 / 0.99]), 0, LARGEST)
    # Row by row one pixel further, about the middle one.
    assert torch.equal(sheared[..., 5, :], image[..., 5, :])
    assert torch.equal(sheared[..., 8, :-3], image[..., 8, 3:]) and not sheared[..., 8, -3:].any()
    assert torch.equal(sheared[..., 1, 4:], image[..., 1, :-4]) and not sheared[..., 1, :4].any()


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
@pytest.mark.parametrize("size", [(12, 17), (1, 1), (2, 40)])
@pytest.mark.parametrize("name", list(AUTO_AUGMENTS))
def test_operation_gives_bytes_and_is_the_same_alone(operation, size, name):
    largest = AUTO_AUGMENTS[name].largest
    pixels = torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    strengths = torch.linspace(-1, 1, 6, dtype=torch.float64)
    together = OPERATIONS[operation](pixels, strengths, largest)
    assert together.dtype == torch.uint8 and together.shape == pixels.shape
    for row in range(6):
        alone = OPERATIONS[operation](pixels[row : row + 1], strengths[row : row + 1], largest)
        assert torch.equal(alone[0], together[row])
