"""Sort-of-CLEVR: the statistics that are known of it, and answers worked out by hand."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from examples.data import sort_of_clevr
from examples.data.sort_of_clevr import (
    ANSWERS,
    COLORS,
    NUM_OBJECTS,
    QUESTION_TYPES,
    SortOfClevr,
    answer_binary,
    answer_ternary,
    describe_question,
    encode_question,
    paint,
    place_objects,
)

from .common import NUM_SCENES, assert_share


@pytest.fixture(scope="module")
def scenes():
    """Centres and shapes of 20,000 scenes, with the questions and answers of both variants."""
    collected = {"fixed": defaultdict(Counter), "original": defaultdict(Counter)}
    self_answers, changed = 0, 0
    for index in range(NUM_SCENES):
        fixed = SortOfClevr.generate("fixed", 0, 0, index)
        # The same scene and questions, from the same random stream; only the answers may differ.
        answers = list(fixed["answers"])
        for position, (question, answer) in enumerate(zip(fixed["questions"], answers)):
            kind, subtype = int(question[12:15].argmax()), int(question[15:].argmax())
            collected["fixed"][kind, subtype][answer] += 1
            if (kind, subtype) == (1, 0):
                a = int(question[:6].argmax())
                distances = ((fixed["centres"] - fixed["centres"][a]) ** 2).sum(axis=1)
                is_self = bool((np.delete(distances, a) > 999).all())
                answer = answer_binary(fixed["centres"], fixed["shapes"], a, 0, "original")
                assert not is_self or answer == 2 + fixed["shapes"][a]
                self_answers += is_self
                changed += answer != answers[position]
            collected["original"][kind, subtype][answer] += 1
    return {
        "counts": collected,
        "self_share": self_answers / sum(collected["fixed"][1, 0].values()),
        # Of the binary questions, which are the relational ones of the original data set.
        "changed_share": changed / (10 * NUM_SCENES),
    }


@pytest.mark.parametrize("variant", ["fixed", "original"])
def test_sort_of_clevr_has_the_known_statistics(scenes, variant):
    counts = scenes["counts"][variant]
    same_shape = counts[1, 2]
    # Questions about one scene are not independent: the effective number is nearer to that of the scenes.
    for number, share in enumerate((0.031, 0.155, 0.316, 0.310, 0.154, 0.033)):
        assert_share(same_shape[4 + number] / same_shape.total(), share, NUM_SCENES)
    for subtype in (0, 1):
        assert_share(counts[1, subtype][2] / counts[1, subtype].total(), 0.5, NUM_SCENES)
    for kind, ceiling in ((0, 0.5), (1, 0.440), (2, 0.533)):
        best = [max(counts[kind, subtype].values()) / counts[kind, subtype].total() for subtype in range(3)]
        assert abs(np.mean(best) - ceiling) < 0.008, (kind, best)
        shares = np.array([counts[kind, subtype].total() for subtype in range(3)]) / (10 * NUM_SCENES)
        assert np.abs(shares - 1 / 3).max() < 0.005


def test_original_variant_answers_with_itself_as_often_as_known(scenes):
    assert_share(scenes["self_share"], 0.070, NUM_SCENES)
    assert_share(scenes["changed_share"], 0.0115, NUM_SCENES, rounding=0.00005)


def test_variants_share_scenes_and_questions():
    for index in range(50):
        fixed, original = (SortOfClevr.generate(variant, 0, 0, index) for variant in SortOfClevr.variants)
        assert fixed["image"] == original["image"]
        assert np.array_equal(fixed["questions"], original["questions"])


def test_scene_is_painted_as_described():
    random = np.random.default_rng(0)
    for _ in range(200):
        centres = place_objects(random)
        assert centres.min() >= 5
        assert centres.max() <= 69
        distances = ((centres[:, None] - centres) ** 2).sum(axis=-1) + 1000 * np.eye(NUM_OBJECTS)
        assert distances.min() >= 100
    centres = np.array([[10, 10], [20, 10], [40, 40], [60, 60], [10, 60], [60, 10]])
    canvas = paint(centres, np.array([0, 1, 0, 1, 0, 1]))
    assert canvas.shape == (75, 75, 3)
    assert tuple(canvas[0, 0]) == (255, 255, 255)
    for (x, y), color in zip(centres, COLORS.values()):
        assert tuple(canvas[y, x]) == color
    # A square of 11 x 11 pixels, of which the later green circle hides one; rows are y, columns are x.
    assert (canvas == COLORS["red"]).all(axis=-1).sum() == 120
    assert tuple(canvas[10, 15]) == COLORS["green"]
    assert tuple(canvas[5, 5]) == COLORS["red"]
    # A circle leaves its corners white.
    assert tuple(canvas[55, 55]) == (255, 255, 255)
    assert (canvas == COLORS["orange"]).all(axis=-1).sum() == 81


def test_answers_of_a_scene_worked_out_by_hand():
    centres = np.array([[10, 10], [30, 10], [20, 12], [20, 60], [65, 65], [10, 40]])
    shapes = np.array([0, 1, 0, 1, 1, 0])
    assert ANSWERS[answer_binary(centres, shapes, 0, 0, "fixed")] == "square"  # blue is closest to red
    assert ANSWERS[answer_binary(centres, shapes, 0, 1, "fixed")] == "circle"  # grey is furthest
    assert ANSWERS[answer_binary(centres, shapes, 0, 2, "fixed")] == "2"
    # Grey has no object within 31.6 pixels, so that the original answers with its own shape.
    assert ANSWERS[answer_binary(centres, shapes, 4, 0, "original")] == "circle"
    far = np.array([[10, 10], [30, 10], [20, 12], [20, 60], [65, 65], [65, 25]])
    assert ANSWERS[answer_binary(far, np.array([0, 0, 0, 0, 1, 0]), 4, 0, "fixed")] == "square"
    assert ANSWERS[answer_binary(far, np.array([0, 0, 0, 0, 1, 0]), 4, 0, "original")] == "circle"
    # Red to orange spans x 10..20, y 10..60: blue and yellow lie within, borders included.
    assert ANSWERS[answer_ternary(centres, 0, 3, 0)] == "2"
    # The line through red and green is y = 10; blue is 2 pixels from it.
    assert ANSWERS[answer_ternary(centres, 0, 1, 1)] == "yes"
    assert (
        ANSWERS[answer_ternary(np.array([[10, 10], [30, 10], [20, 40], [20, 60], [65, 65], [10, 40]]), 0, 1, 1)]
        == "no"
    )
    # Obtuse with red and green: blue between them, grey beyond green; orange is acute, yellow has a right angle.
    assert ANSWERS[answer_ternary(centres, 0, 1, 2)] == "3"
    # Three on one line have an angle of 180 degrees, which does not count.
    line = np.array([[10, 10], [30, 10], [20, 10], [20, 60], [20, 50], [20, 40]])
    assert ANSWERS[answer_ternary(line, 0, 1, 2)] == "0"


def test_question_bits_and_words():
    question = encode_question(2, 1, 0, 4)
    assert question.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0]
    assert describe_question(question) == "Is any near the line through red and grey?"
    row = SortOfClevr.generate("fixed", 0, 0, 0)
    bits = np.array(row["questions"])
    assert bits.shape == (30, 18)
    assert (bits[:, :6].sum(1) == 1).all()
    assert (bits[:, 6:12].sum(1) == (bits[:, 14] == 1)).all()
    assert not bits[bits[:, 14] == 1][:, [5, 11]].any()  # ternary questions leave yellow out
    assert bits[:, 12:15].sum(0).tolist() == [10, 10, 10]
    assert len({describe_question(question) for question in bits}) > 10
    assert tuple(sort_of_clevr.SUBTYPES) == QUESTION_TYPES
