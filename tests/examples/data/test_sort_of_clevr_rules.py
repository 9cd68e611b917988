"""Each rule that answers a question, on scenes made by hand whose answers are worked out here."""

import numpy as np
import pytest

from examples.data import sort_of_clevr
from examples.data.sort_of_clevr import (
    ANSWERS,
    COLORS,
    answer_binary,
    answer_ternary,
    describe_question,
    make_example,
    paint,
)


RED, GREEN, BLUE, ORANGE, GREY, YELLOW = range(6)
SQUARE, CIRCLE = 0, 1
# Red is at the top left, green at the top right, blue at the bottom left, orange at the bottom right; the middle of
# the 75 pixels is at 37.5, so that grey is just left and just below of it, yellow just right and just above of it.
CENTRES = np.array([[10, 12], [60, 8], [7, 66], [66, 60], [37, 38], [38, 25]])
SHAPES = np.array([SQUARE, CIRCLE, CIRCLE, CIRCLE, SQUARE, CIRCLE])
ANSWERED = {
    "What is the shape of red?": "square",
    "What is the shape of green?": "circle",
    "What is the shape of blue?": "circle",
    "What is the shape of orange?": "circle",
    "What is the shape of grey?": "square",
    "What is the shape of yellow?": "circle",
    "Is red on the left?": "yes",
    "Is green on the left?": "no",
    "Is blue on the left?": "yes",
    "Is orange on the left?": "no",
    "Is grey on the left?": "yes",
    "Is yellow on the left?": "no",
    "Is red at the top?": "yes",
    "Is green at the top?": "yes",
    "Is blue at the top?": "no",
    "Is orange at the top?": "no",
    "Is grey at the top?": "no",
    "Is yellow at the top?": "yes",
    # Nearest: red 30.9 to yellow; green 27.8 to yellow; blue 41.0 to grey; orange 36.4 to grey; grey 13.0 to yellow.
    "What is the shape of the object closest to red?": "circle",
    "What is the shape of the object closest to green?": "circle",
    "What is the shape of the object closest to blue?": "square",
    "What is the shape of the object closest to orange?": "square",
    "What is the shape of the object closest to grey?": "circle",
    "What is the shape of the object closest to yellow?": "square",
    # Furthest: red 73.8 from orange; green 78.6 from blue; blue 78.6 from green; orange 73.8 from red; grey 41.0 from
    # blue; yellow 51.4 from blue.
    "What is the shape of the object furthest from red?": "circle",
    "What is the shape of the object furthest from green?": "circle",
    "What is the shape of the object furthest from blue?": "circle",
    "What is the shape of the object furthest from orange?": "square",
    "What is the shape of the object furthest from grey?": "circle",
    "What is the shape of the object furthest from yellow?": "circle",
    "How many others have the shape of red?": "1",
    "How many others have the shape of green?": "3",
    "How many others have the shape of blue?": "3",
    "How many others have the shape of orange?": "3",
    "How many others have the shape of grey?": "1",
    "How many others have the shape of yellow?": "3",
    # The box between red and orange holds grey and yellow; that between green and blue red as well.
    "How many are in the box between red and orange?": "2",
    "How many are in the box between orange and red?": "2",
    "How many are in the box between green and blue?": "3",
    "How many are in the box between red and green?": "0",
    # Grey spans to red the box x 10..37, y 12..38: yellow, at x 38, is just outside.
    "How many are in the box between red and grey?": "0",
    # The line through red and green falls by 4 pixels in 50: yellow is 15 below it, the others further.
    "Is any near the line through red and green?": "no",
    # That through red and orange rises by 48 in 56: at x 37 it is at 35.1, 2.9 from grey.
    "Is any near the line through red and orange?": "yes",
    # An angle is obtuse where the sides from it have a negative product. Red and blue: at red with green it is
    # (-3, 54) (50, -4) = -366; with orange, grey and yellow all three are positive.
    "How many form an obtuse triangle with red and blue?": "1",
    # Red and orange: at grey (-27, -26) (29, 22) = -1355, at yellow (-28, -13) (28, 35) = -1239, at green
    # (-50, 4) (6, 52) = -92; at blue (3, -54) (59, -6) = 501, and at red and orange with blue they are positive too.
    "How many form an obtuse triangle with red and orange?": "3",
}


class FixedShapes:
    """A random stream in which the shapes of the scene are given."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def integers(self, low, high, size=None):
        return SHAPES if size == len(COLORS) else self.random.integers(low, high, size=size)

    def choice(self, *args, **kwargs):
        return self.random.choice(*args, **kwargs)


@pytest.fixture
def answers_of(monkeypatch):
    """The answers that the questions of many examples of the scene made by hand get."""
    monkeypatch.setattr(sort_of_clevr, "place_objects", lambda random: CENTRES)
    answers: dict[str, set[str]] = {}
    for seed in range(60):
        example = make_example("fixed", FixedShapes(seed))
        assert len(example["questions"]) == len(example["answers"]) == 30
        for question, answer in zip(example["questions"], example["answers"]):
            answers.setdefault(describe_question(question), set()).add(ANSWERS[answer])
    return answers


def test_every_question_gets_the_answer_worked_out_by_hand(answers_of):
    assert {question: answers_of.get(question) for question in ANSWERED} == {
        question: {answer} for question, answer in ANSWERED.items()
    }


def test_every_question_is_asked(answers_of):
    # 6 objects with 3 subtypes of 2 types, and 5 x 4 ordered pairs with 3 subtypes.
    assert len(answers_of) == 2 * 3 * 6 + 3 * 5 * 4
    assert all(len(answers) == 1 for answers in answers_of.values())
    assert not any("yellow" in question for question in answers_of if " and " in question)


@pytest.mark.parametrize(("a", "expected"), [(RED, 73.8), (GREEN, 78.6), (GREY, 41.0)])
def test_distances_of_the_scene_are_those_worked_out(a, expected):
    assert np.linalg.norm(CENTRES - CENTRES[a], axis=1).max() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("height", "expected"), [(21, "yes"), (22, "yes"), (23, "no"), (-2, "yes"), (-3, "no"), (10, "yes")]
)
def test_near_the_line_means_twelve_pixels_and_no_more(height, expected):
    """The line through red and green is y = 10; blue alone may be near it."""
    centres = np.array([[10, 10], [30, 10], [50, height], [20, 60], [40, 60], [60, 60]])
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 1)] == expected


def test_nearness_is_measured_upright():
    """The line is y = x; blue is 16 pixels below it and 11.3 from it."""
    centres = np.array([[10, 10], [20, 20], [30, 46], [5, 65], [5, 69], [10, 69]])
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 1)] == "no"
    centres[BLUE] = 30, 41
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 1)] == "yes"


def test_upright_line_has_all_others_far_but_those_on_it():
    """Through x = 10 the line is too steep for a height at another x."""
    centres = np.array([[10, 10], [10, 40], [12, 20], [40, 20], [50, 60], [60, 10]])
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 1)] == "no"
    centres[BLUE] = 10, 20
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 1)] == "yes"


@pytest.mark.parametrize(
    ("place", "expected"),
    [((30, 25), "1"), ((10, 40), "1"), ((30, 10), "1"), ((31, 25), "0"), ((9, 25), "0"), ((20, 41), "0")],
)
def test_box_has_its_border_and_nothing_beyond(place, expected):
    centres = np.array([[10, 10], [30, 40], place, [60, 5], [60, 60], [5, 69]])
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 0)] == expected
    assert ANSWERS[answer_ternary(centres, GREEN, RED, 0)] == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((30, 10 + 10), "1"),  # 90 degrees at blue: 10 to each side, 10 above
        ((30, 10 + 11), "0"),  # 85 degrees
        ((30, 10 + 9), "1"),  # 96 degrees
        ((20, 30), "1"),  # 90 degrees at red
        ((21, 30), "0"),
        ((19, 30), "1"),
        ((30, 10), "0"),  # on the line: 180 degrees
        ((69, 10), "0"),  # on the line, beyond green
    ],
)
def test_obtuse_begins_at_a_right_angle_and_ends_before_a_straight_one(place, expected):
    """Red and green are 20 pixels apart; the other three see them at acute angles, all angles being acute."""
    centres = np.array([[20, 10], [40, 10], place, [30, 60], [31, 69], [29, 69]])
    assert ANSWERS[answer_ternary(centres, RED, GREEN, 2)] == expected


@pytest.mark.parametrize("a", [RED, GREEN, YELLOW])
def test_shape_of_the_closest_is_that_of_the_right_object(a):
    """Only the closest is a circle, and only the furthest a square."""
    centres = np.array([[5, 5], [25, 5], [45, 5], [5, 45], [25, 45], [69, 69]])
    distances = np.linalg.norm(centres - centres[a], axis=1)
    closest = {RED: GREEN, GREEN: RED, YELLOW: GREY}[a]
    assert sorted(distances)[1] == distances[closest]
    shapes = np.full(6, SQUARE)
    shapes[closest] = CIRCLE
    assert ANSWERS[answer_binary(centres, shapes, a, 0, "fixed")] == "circle"
    furthest = {RED: YELLOW, GREEN: YELLOW, YELLOW: RED}[a]
    shapes = np.full(6, CIRCLE)
    shapes[furthest] = SQUARE
    assert ANSWERS[answer_binary(centres, shapes, a, 1, "fixed")] == "square"


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(31, "square"), (32, "circle")],  # 31 ** 2 = 961 and 32 ** 2 = 1024, around 999
)
def test_original_takes_an_object_for_its_own_closest_from_a_squared_distance_of_999(distance, expected):
    centres = np.array([[5, 5], [5 + distance, 5], [69, 45], [69, 55], [69, 65], [59, 65]])
    shapes = np.array([CIRCLE, SQUARE, SQUARE, SQUARE, SQUARE, SQUARE])
    assert ANSWERS[answer_binary(centres, shapes, RED, 0, "original")] == expected
    assert ANSWERS[answer_binary(centres, shapes, RED, 0, "fixed")] == "square"


def test_colors_are_these():
    assert COLORS == {
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
        "orange": (255, 156, 0),
        "grey": (128, 128, 128),
        "yellow": (255, 255, 0),
    }
    assert ANSWERS == ("yes", "no", "square", "circle", "0", "1", "2", "3", "4", "5")
    canvas = paint(CENTRES, SHAPES)
    painted = [tuple(canvas[y, x].tolist()) for x, y in CENTRES]
    assert painted == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 156, 0),
        (128, 128, 128),
        (255, 255, 0),
    ]


def test_places_cover_the_canvas_and_keep_apart():
    random = np.random.default_rng(0)
    centres = np.stack([sort_of_clevr.place_objects(random) for _ in range(500)])
    assert (centres.min(), centres.max()) == (5, 69)
    distances = ((centres[:, :, None] - centres[:, None]) ** 2).sum(axis=-1)[:, ~np.eye(6, dtype=bool)]
    assert distances.min() == 100
