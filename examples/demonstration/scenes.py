"""Scenes of Sort-of-CLEVR, and questions about them in words."""

from dataclasses import dataclass

import numpy as np
import torch

from examples.data.sort_of_clevr import (
    ANSWERS,
    COLOR_NAMES,
    QUESTION_TYPES,
    WORDS,
    SortOfClevr,
    answer_encoded,
    describe_question,
    encode_question,
)
from examples.demonstration.looking import Look, look_at
from examples.demonstration.opening import Opened
from examples.errors import InputError


# The questions with A and B in place of colours, and what each is encoded by.
QUESTIONS = {
    words.format(a="A", b="B"): (type_index, subtype)
    for type_index, name in enumerate(QUESTION_TYPES)
    for subtype, words in enumerate(WORDS[name])
}
# No question about two objects has the last colour.
PAIR_COLORS = COLOR_NAMES[:-1]
TEST_SPLIT, NUM_SCENES = 1, 10**6


@dataclass(frozen=True)
class Scene:
    """A held-out image: its number, its pixels as the model takes them, and its objects, see `SortOfClevr`."""

    number: int
    pixel_values: torch.Tensor
    centres: np.ndarray
    shapes: np.ndarray


def make_scene(opened: Opened, number: int | None) -> Scene:
    """
    Generate the held-out image of a number.

    Raises:
        InputError: if there is no such number.
    """
    if number is None or not 0 <= number < NUM_SCENES:
        raise InputError(f"There is no scene of this number: give one from 0 to {NUM_SCENES - 1}.")
    row = SortOfClevr.generate(opened.variant, 0, TEST_SPLIT, number)
    return Scene(number, opened.read(row["image"], f"scene {number}"), row["centres"], row["shapes"])


def has_two_objects(question: str) -> bool:
    """Whether a question of `QUESTIONS` is about A and B."""
    return QUESTION_TYPES[QUESTIONS[question][0]] == "ternary"


def encode(question: str, a: str, b: str) -> np.ndarray:
    """
    The 18 bits of a question about objects of these colours; B is ignored where the question has none.

    Raises:
        InputError: for colours that such a question is never asked about.
    """
    type_index, subtype = QUESTIONS[question]
    if not has_two_objects(question):
        return encode_question(type_index, subtype, COLOR_NAMES.index(a))
    if a == b:
        raise InputError(f"A and B are both {a}: choose two colours.")
    if {a, b} - set(PAIR_COLORS):
        raise InputError(
            f"No question about two objects has {COLOR_NAMES[-1]} among them: choose of {', '.join(PAIR_COLORS)}."
        )
    return encode_question(type_index, subtype, COLOR_NAMES.index(a), COLOR_NAMES.index(b))


def ask(opened: Opened, scene: Scene, question: str, a: str, b: str) -> tuple[str, Look]:
    """
    Ask the model a question about a scene; return the question in words, and what it did.

    Raises:
        InputError: for a question that cannot be asked, see `encode`.
    """
    bits = encode(question, a, b)
    answer = answer_encoded(scene.centres, scene.shapes, bits[None], opened.variant)[0]
    look = look_at(opened, scene.pixel_values, torch.from_numpy(bits), ANSWERS[int(answer)])
    return describe_question(bits), look
