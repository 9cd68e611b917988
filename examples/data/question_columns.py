"""Reading the columns `questions` and `answers` of a data set, which may be anyone's."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from examples.data.sort_of_clevr import ANSWERS, NUM_OBJECTS, QUESTION_SIZE, QUESTION_TYPES
from examples.errors import InputError


TYPE_BITS = slice(2 * NUM_OBJECTS, 2 * NUM_OBJECTS + len(QUESTION_TYPES))
SUBTYPE_BITS = slice(TYPE_BITS.stop, QUESTION_SIZE)


def find_fault(bits: np.ndarray, answers: np.ndarray) -> str | None:
    """What is wrong with the questions (Q, 18) and answers (Q,) of one image, if anything is."""
    if bits.ndim != 2 or bits.shape[1] != QUESTION_SIZE:
        return f"`questions` must be a list of questions of {QUESTION_SIZE} bits each"
    if answers.shape != bits.shape[:1]:
        return f"there must be one answer to each question, but there are {len(bits)} and {answers.size} answers"
    if not np.isin(bits, (0, 1)).all():
        return "the bits of a question must be 0 or 1"
    if (bits[:, :NUM_OBJECTS].sum(axis=1) != 1).any() or (
        bits[:, NUM_OBJECTS : 2 * NUM_OBJECTS].sum(axis=1) > 1
    ).any():
        return f"one first color of {NUM_OBJECTS} must be set in each question, and at most one second"
    if (bits[:, TYPE_BITS].sum(axis=1) != 1).any() or (bits[:, SUBTYPE_BITS].sum(axis=1) != 1).any():
        return f"one type of {len(QUESTION_TYPES)} and one subtype must be set in each question"
    if not np.isin(answers, range(len(ANSWERS))).all():
        return f"answers must be whole numbers from 0 to {len(ANSWERS) - 1}, the places in {', '.join(ANSWERS)}"
    return None


def read_row(questions: Any, answers: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """
    The questions (Q, 18) and the answers (Q,) of one image.

    Raises:
        InputError: if they are no such questions and answers.
    """
    try:
        bits, labels = (np.asarray(values, dtype=np.float64) for values in (questions, answers))
    except (TypeError, ValueError):
        raise InputError(f"{where}: questions must be lists of {QUESTION_SIZE} bits, answers numbers.") from None
    if bits.shape == (0,):
        bits = bits.reshape(0, QUESTION_SIZE)
    if (fault := find_fault(bits, labels)) is not None:
        raise InputError(f"{where}: {fault}.")
    return bits.astype(np.uint8), labels.astype(np.int64)


def read_rows(data: datasets.Dataset, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Questions and answers of each image of data, which a message calls so, or an `InputError` for what is none."""
    columns = zip(data["questions"][:], data["answers"][:])
    return [
        read_row(questions, answers, f"Image {index} of {name}") for index, (questions, answers) in enumerate(columns)
    ]


def read_questions(data: datasets.Dataset, types: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    All questions (N, 18) of some types, their answers (N,), and the index (N,) of the image of each, in their order.

    Raises:
        InputError: if a row holds something else, or none is of these types.
    """
    rows = read_rows(data, "those in use")
    if rows:
        bits, answers = (np.concatenate(parts) for parts in zip(*rows))
        is_wanted = np.isin(name_types(bits), types)
        if is_wanted.any():
            image_indices = np.repeat(np.arange(len(rows)), [len(row_answers) for _, row_answers in rows])
            return bits[is_wanted], answers[is_wanted], image_indices[is_wanted]
    split = "" if data.split is None else f" of the {data.split} split"
    raise InputError(f"The {len(rows)} images{split} in use have no question of the types {', '.join(types)}.")


def name_types(bits: np.ndarray) -> np.ndarray:
    """The type of each question, (num_questions, 18) -> (num_questions,) of names."""
    return np.asarray(QUESTION_TYPES)[bits[:, TYPE_BITS].argmax(axis=1)]
