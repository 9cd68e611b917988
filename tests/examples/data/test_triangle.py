"""Triangle: the statistics that are known of it, and what its variants promise."""

import math

import numpy as np
import pytest

from examples.data.triangle import MATCHED_SIDES, Triangle, compute_sides, draw_matched, draw_original

from .common import NUM_SCENES, assert_share, decode


@pytest.fixture(scope="module")
def triangles():
    """Vertices (num_triangles, 3, 2) and labels of both variants."""
    drawn = {}
    for variant in Triangle.variants:
        rows = [Triangle.generate(variant, 0, 0, index) for index in range(NUM_SCENES)]
        drawn[variant] = np.array([row["vertices"] for row in rows]), np.array([row["label"] for row in rows])
    return drawn


def best_threshold(longest, labels):
    """Accuracy of the best threshold on the longest side."""
    order = np.argsort(longest)
    is_equilateral = labels[order] == 0
    below = np.cumsum(is_equilateral) + (~is_equilateral).sum() - np.cumsum(~is_equilateral)
    return max(below.max(), len(labels) - below.min()) / len(labels)


def test_original_triangles_have_the_known_statistics(triangles):
    vertices, labels = triangles["original"]
    assert_share(labels.mean(), 0.5, NUM_SCENES)
    sides = compute_sides(vertices)
    longest, shortest = sides.max(axis=1), sides.min(axis=1)
    for label, mean in ((0, 26.8), (1, 44.2)):
        values = longest[labels == label]
        assert abs(values.mean() - mean) < 4 * values.std() / math.sqrt(len(values)) + 0.05
    assert_share(best_threshold(longest, labels), 0.738, NUM_SCENES)
    assert_share(((longest - shortest)[labels == 1] <= 2).mean(), 0.0045, NUM_SCENES / 2)
    assert (longest - shortest)[labels == 0].max() < 2
    assert vertices.min() >= 1
    assert vertices.max() <= 63


def test_original_equilateral_triangles_are_redrawn_as_often_as_known():
    """Count the draws by the numbers that a triangle takes from its random stream."""

    class CountingRandom:
        def __init__(self):
            self.random, self.num_draws = np.random.default_rng(0), 0

        def integers(self, *args, **kwargs):
            self.num_draws += 1
            return self.random.integers(*args, **kwargs)

    random = CountingRandom()
    for _ in range(NUM_SCENES):
        draw_original(0, random)
    assert_share(NUM_SCENES / random.num_draws, 0.57, random.num_draws, rounding=0.005)


def test_matched_triangles_differ_in_shape_alone(triangles):
    vertices, labels = triangles["matched"]
    longest = compute_sides(vertices).max(axis=1)
    # A threshold does no better than one fitted to labels that are shuffled.
    shuffled = np.random.default_rng(0).permutation(labels)
    assert best_threshold(longest, labels) < 0.5 + 2 * (best_threshold(longest, shuffled) - 0.5) + 0.005 < 0.53
    assert best_threshold(*[np.concatenate([part, part]) for part in (longest, labels)]) < 0.53
    low, high = MATCHED_SIDES
    assert longest.min() > low - 2
    assert longest.max() < high + 2
    assert vertices.min() >= 1
    assert vertices.max() <= 63
    spread = compute_sides(vertices).max(axis=1) - compute_sides(vertices).min(axis=1)
    assert spread[labels == 0].max() < 3
    # The ceiling: random triangles that look equilateral.
    assert (spread[labels == 1] <= 2).mean() < 0.01


def test_triangle_image_shows_its_vertices():
    row = Triangle.generate("matched", 0, 0, 0)
    pixels = decode(row)
    assert pixels.shape == (64, 64, 3)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[..., 0] == pixels[..., 1]).all()
    white = np.argwhere(pixels[..., 0] == 255)[:, ::-1]
    distances = np.linalg.norm(white[:, None] - np.array(row["vertices"]), axis=-1)
    # Every white pixel lies within a dot's radius and an offset of a vertex, and each vertex has some.
    assert distances.min(axis=1).max() <= 2 + math.sqrt(2)
    assert (distances.min(axis=0) <= 2).all()


@pytest.mark.parametrize("label", [0, 1])
def test_matched_longest_side_is_what_was_drawn(label):
    random = np.random.default_rng(0)
    for _ in range(300):
        wanted = np.random.default_rng(random.integers(2**31))
        state = wanted.bit_generator.state
        side = wanted.uniform(*MATCHED_SIDES)
        wanted.bit_generator.state = state
        assert abs(compute_sides(draw_matched(label, wanted)).max() - side) < 1.5
