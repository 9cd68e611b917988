"""Questions of one's own: what their columns may hold, and what is said of the rest."""

import datasets
import numpy as np
import pytest

from examples.data.__main__ import caption
from examples.data.question_columns import read_questions, read_rows
from examples.data.sort_of_clevr import QUESTION_TYPES
from examples.errors import InputError


SHAPE_OF_RED = [1] + [0] * 11 + [1, 0, 0] + [1, 0, 0]
CLOSEST_TO_RED = [1] + [0] * 11 + [0, 1, 0] + [1, 0, 0]


def make_data(questions, answers, split="test"):
    return datasets.Dataset.from_dict({"questions": questions, "answers": answers}, split=split)


def test_images_may_have_different_numbers_of_questions_and_none():
    data = make_data([[SHAPE_OF_RED], [], [CLOSEST_TO_RED, SHAPE_OF_RED]], [[2], [], [3, 2]])
    bits, answers, image_indices = read_questions(data, QUESTION_TYPES)
    assert bits.dtype == np.uint8
    assert bits.tolist() == [SHAPE_OF_RED, CLOSEST_TO_RED, SHAPE_OF_RED]
    assert (answers.tolist(), image_indices.tolist()) == ([2, 3, 2], [0, 2, 2])
    _, answers, image_indices = read_questions(data, ["binary"])
    assert (answers.tolist(), image_indices.tolist()) == ([3], [2])


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        ([SHAPE_OF_RED[:17]], [2], "list of questions of 18 bits each"),
        (SHAPE_OF_RED, [2] * 18, "list of questions of 18 bits each"),
        ([SHAPE_OF_RED, SHAPE_OF_RED[:17]], [2, 2], "must be lists of 18 bits, answers numbers"),
        ([["What?"] * 18], [2], "must be lists of 18 bits, answers numbers"),
        (None, [2], "list of questions of 18 bits each"),
        ([SHAPE_OF_RED] * 2, [2], "one answer to each question, but there are 2 and 1 answers"),
        ([SHAPE_OF_RED], None, "one answer to each question, but there are 1 and 1 answers"),
        ([SHAPE_OF_RED], [None], "whole numbers from 0 to 9, the places in yes, no, square"),
        ([SHAPE_OF_RED], [10], "whole numbers from 0 to 9"),
        ([SHAPE_OF_RED], [-1], "whole numbers from 0 to 9"),
        ([SHAPE_OF_RED], [1.5], "whole numbers from 0 to 9"),
        ([[300, *SHAPE_OF_RED[1:]]], [2], "bits of a question must be 0 or 1"),
        ([[0.7, *SHAPE_OF_RED[1:]]], [2], "bits of a question must be 0 or 1"),
        ([[0] * 18], [2], "one first color of 6 must be set"),
        ([[1, 1, *SHAPE_OF_RED[2:]]], [2], "one first color of 6 must be set"),
        ([[*SHAPE_OF_RED[:6], 1, 1, *SHAPE_OF_RED[8:]]], [2], "and at most one second"),
        ([[*SHAPE_OF_RED[:12], 0, 0, 0, 1, 0, 0]], [2], "one type of 3 and one subtype must be set"),
        ([[*SHAPE_OF_RED[:12], 1, 0, 0, 1, 1, 0]], [2], "one type of 3 and one subtype must be set"),
    ],
)
def test_what_is_no_question_or_answer_is_refused_with_its_place(questions, answers, message):
    data = make_data([[], questions], [[], answers])
    with pytest.raises(InputError, match=f"^Image 1 of the dev split: .*{message}"):
        read_rows(data, "the dev split")
    with pytest.raises(InputError, match=f"^Image 1 of those in use: .*{message}"):
        read_questions(data, QUESTION_TYPES)
    with pytest.raises(InputError, match=f"^An image of the preview: .*{message}"):
        caption({"questions": questions, "answers": answers}, "answers", [])


@pytest.mark.parametrize(("questions", "answers"), [([], []), ([[]], [[]]), ([[SHAPE_OF_RED]], [[2]])])
def test_no_question_of_the_types_is_refused(questions, answers):
    with pytest.raises(
        InputError, match=f"The {len(questions)} images of the train split in use have no question of the types binary"
    ):
        read_questions(make_data(questions, answers, "train"), ["binary"])


def test_preview_shows_fewer_questions_than_its_place_holds():
    row = {"questions": [SHAPE_OF_RED, CLOSEST_TO_RED], "answers": [2, 3]}
    assert caption(row, "answers", []).count("?") == 2
    assert caption({"questions": [], "answers": []}, "answers", []) == ""
