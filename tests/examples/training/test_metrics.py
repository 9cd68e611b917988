"""Accuracy, of the model, of groups of questions and of the question alone, on questions made by hand."""

import types

import numpy as np
import pytest
from transformers import EvalPrediction

from examples.training.metrics import answer_from_questions_alone, compute_metrics, make_metrics, score_groups


def make_questions(rows):
    """Questions (colour, type, subtype, answer): 6 bits of colours and of the second, 3 of types, 3 of subtypes."""
    bits = np.zeros((len(rows), 18), dtype=np.uint8)
    for row, (colour, kind, subtype, _) in enumerate(rows):
        bits[row, [colour, 12 + kind, 15 + subtype]] = 1
    return types.SimpleNamespace(bits=bits, answers=np.array([answer for *_, answer in rows]))


def test_accuracy_is_the_share_of_largest_logits_that_are_right():
    logits = np.array([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert compute_metrics(EvalPrediction(logits, np.array([1, 0, 2, 0]))) == {"accuracy": 0.75}


def test_question_alone_gets_its_most_frequent_answer_whatever_the_colour():
    train = make_questions([(0, 0, 1, 7), (1, 0, 1, 3), (2, 0, 1, 3), (3, 0, 1, 7), (4, 0, 1, 3), (0, 1, 1, 5)])
    test = make_questions([(5, 0, 1, 0), (5, 1, 1, 0), (5, 1, 2, 0)])
    # The last was never asked in training.
    assert answer_from_questions_alone(train, test).tolist() == [3, 5, -1]


def test_groups_have_the_accuracy_of_their_own_questions():
    data = make_questions([(0, 0, 0, 1), (0, 0, 0, 1), (0, 1, 0, 1), (0, 2, 1, 1), (0, 2, 1, 1)])
    scores = score_groups(np.array([1, 0, 0, 1, 1]), data)
    assert scores["relational"] == pytest.approx(2 / 3)
    assert sorted(scores.values()) == pytest.approx(sorted([0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 2 / 3]))
    logits = np.eye(2)[[1, 0, 0, 1, 1]]
    measured = make_metrics(data)(EvalPrediction(logits, data.answers))
    assert measured["accuracy"] == pytest.approx(0.6)
    assert measured["accuracy_by_group"] == scores
    with pytest.raises(AssertionError, match="another order"):
        make_metrics(data)(EvalPrediction(logits, 1 - data.answers))
