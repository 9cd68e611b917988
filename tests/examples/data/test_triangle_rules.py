"""The numbers that make a triangle's image: truncation, dots, their radius, and the range of the sides."""

import numpy as np
import pytest

from examples.data.triangle import (
    CANVAS_SIZE,
    LABELS,
    MATCHED_SIDES,
    compute_sides,
    draw_matched,
    draw_original,
    is_on_canvas,
    paint,
    turn_by_60_degrees,
)


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        # 10 + 5 + 0.866 * 4 = 18.464 and 10 - 0.866 * 10 + 2 = 3.34
        ((10, 10), (20, 14), (18, 3)),
        # 20 + 10 = 30 and 50 - 0.866 * 20 = 32.68: not rounded to 33
        ((20, 50), (40, 50), (30, 32)),
        # 30 + 0.866 * 20 = 47.32 and 10 + 10 = 20
        ((30, 10), (30, 30), (47, 20)),
        # 1 + 1 = 2 and 1 - 0.866 * 2 = -0.732: towards zero
        ((1, 1), (3, 1), (2, 0)),
        # 10 + 0.866 * 23 = 29.918 and 10 + 11.5 = 21.5
        ((10, 10), (10, 33), (29, 21)),
    ],
)
def test_third_corner_is_truncated_towards_zero(first, second, third):
    assert turn_by_60_degrees(np.array(first), np.array(second)).tolist() == list(third)


@pytest.mark.parametrize(("place", "expected"), [(0, False), (1, True), (63, True), (64, False)])
def test_canvas_ends_one_pixel_before_its_border(place, expected):
    assert is_on_canvas(np.array([[30, place], [20, 20], [40, 40]])) is expected
    assert is_on_canvas(np.array([[place, 30], [20, 20], [40, 40]])) is expected


class FixedOffsets:
    """A random stream that gives the offsets of the dots."""

    def __init__(self, offsets):
        self.offsets = offsets

    def integers(self, low, high, size):
        assert (low, high) == (-1, 2)
        # Half of the eight dots of each corner; the others are their mirror images.
        assert size == (3, 4, 2)
        return np.broadcast_to(self.offsets, size)


def count_white(vertices, offsets=(0, 0)):
    canvas = paint(np.array(vertices), FixedOffsets(offsets))
    assert canvas.shape == (CANVAS_SIZE, CANVAS_SIZE, 3)
    assert (canvas == canvas[..., :1]).all()
    assert set(np.unique(canvas)) <= {0, 255}
    return (canvas[..., 0] == 255).sum(), canvas[..., 0]


def test_dot_is_a_disc_of_radius_two():
    number, canvas = count_white([[10, 20], [40, 20], [40, 50]])
    # 1 + 3 + 5 + 3 + 1 pixels, three times.
    assert number == 3 * 13
    disc = [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(canvas[18:23, 8:13] == 255, np.array(disc, dtype=bool))


def test_dots_lie_on_both_sides_of_a_corner():
    number, canvas = count_white([[10, 20], [40, 20], [40, 50]], offsets=(1, 0))
    # Two discs, two pixels apart in x: in each row the union is wider by two, and none is lost.
    assert number == 3 * (3 + 5 + 7 + 5 + 3 - 2)
    assert np.argwhere(canvas[20, :25] == 255).ravel().tolist() == list(range(7, 14))
    assert np.argwhere(canvas[:30, 10] == 255).ravel().tolist() == [19, 20, 21]


def test_dots_are_cut_at_the_border():
    number, _ = count_white([[0, 0], [63, 0], [63, 63]])
    # A quarter of a disc, with its axes: 3 + 2 + 1 pixels.
    assert number == 3 * 6


@pytest.mark.parametrize("label", [0, 1])
def test_longest_side_is_uniform_over_its_range(label):
    assert MATCHED_SIDES == (16.0, 56.0)
    random = np.random.default_rng(0)
    longest = np.array([compute_sides(draw_matched(label, random)).max() for _ in range(4000)])
    for quantile, expected in ((0, 16), (0.25, 26), (0.5, 36), (0.75, 46), (1, 56)):
        assert np.quantile(longest, quantile) == pytest.approx(expected, abs=1.5)


def test_labels_mean_what_they_say():
    assert LABELS == ("equilateral", "random")
    random = np.random.default_rng(0)
    for draw in (draw_original, draw_matched):
        for _ in range(50):
            sides = compute_sides(draw(LABELS.index("equilateral"), random))
            assert sides.max() - sides.min() < 3
        spread = [np.ptp(compute_sides(draw(LABELS.index("random"), random))) for _ in range(50)]
        assert np.median(spread) > 5


def test_original_corners_are_drawn_from_the_whole_canvas():
    random = np.random.default_rng(0)
    vertices = np.stack([draw_original(1, random) for _ in range(2000)])
    assert (vertices.min(), vertices.max()) == (1, 63)
