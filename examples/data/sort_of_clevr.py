"""
Sort-of-CLEVR: questions about six coloured objects, non-relational, binary and ternary (Santoro et al., 2017).

Written from the description of the data set; the ternary questions are those of Goyal et al. (2022).
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from examples.data.generated import GeneratedBuilder, encode_png


CANVAS_SIZE = 75
OBJECT_RADIUS = 5
QUESTIONS_PER_TYPE = 10
COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "grey": (128, 128, 128),
    "yellow": (255, 255, 0),
}
COLOR_NAMES = tuple(COLORS)
NUM_OBJECTS = len(COLORS)
SHAPES = ("square", "circle")
QUESTION_TYPES = ("non-relational", "binary", "ternary")
ANSWERS = ("yes", "no", *SHAPES, "0", "1", "2", "3", "4", "5")
YES, NO, FIRST_SHAPE, FIRST_COUNT = 0, 1, 2, 4
# Bits of a question: color of A, color of B, type, subtype.
QUESTION_SIZE = 2 * NUM_OBJECTS + 2 * 3
SUBTYPES = {
    "non-relational": ("shape", "left half", "top half"),
    "binary": ("shape of closest", "shape of furthest", "number of same shape"),
    "ternary": ("number in the box between", "any near the line", "number at obtuse angles"),
}
WORDS = {
    "non-relational": ("What is the shape of {a}?", "Is {a} on the left?", "Is {a} at the top?"),
    "binary": (
        "What is the shape of the object closest to {a}?",
        "What is the shape of the object furthest from {a}?",
        "How many others have the shape of {a}?",
    ),
    "ternary": (
        "How many are in the box between {a} and {b}?",
        "Is any near the line through {a} and {b}?",
        "How many form an obtuse triangle with {a} and {b}?",
    ),
}


def place_objects(random: np.random.Generator) -> np.ndarray:
    """Draw the centres (x, y) of the objects, (6, 2), at least 10 pixels from each other."""
    centres: list[tuple[int, int]] = []
    while len(centres) < NUM_OBJECTS:
        x, y = random.integers(OBJECT_RADIUS, CANVAS_SIZE - OBJECT_RADIUS, size=2).tolist()
        if all((x - other_x) ** 2 + (y - other_y) ** 2 >= 100 for other_x, other_y in centres):
            centres.append((x, y))
    return np.array(centres)


def paint(centres: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Paint the objects on white, later ones over earlier ones, as (75, 75, 3) of uint8."""
    canvas = np.full((CANVAS_SIZE, CANVAS_SIZE, 3), 255, dtype=np.uint8)
    offsets = np.arange(-OBJECT_RADIUS, OBJECT_RADIUS + 1)
    disc = offsets[:, None] ** 2 + offsets**2 <= OBJECT_RADIUS**2
    for (x, y), shape, color in zip(centres.tolist(), shapes.tolist(), COLORS.values()):
        patch = canvas[y - OBJECT_RADIUS : y + OBJECT_RADIUS + 1, x - OBJECT_RADIUS : x + OBJECT_RADIUS + 1]
        patch[disc if SHAPES[shape] == "circle" else np.ones_like(disc)] = color
    return canvas


def answer_binary(centres: np.ndarray, shapes: np.ndarray, a: int, subtype: int, variant: str) -> int:
    """Answer a question about A and all other objects."""
    distances = ((centres - centres[a]) ** 2).sum(axis=1)
    if subtype == 0:
        # The original code means to exclude A by a large distance, but the distances are squared: with no object
        # within 31.6 pixels A itself is the closest.
        distances[a] = 999 if variant == "original" else np.iinfo(distances.dtype).max
        return FIRST_SHAPE + int(shapes[distances.argmin()])
    if subtype == 1:
        return FIRST_SHAPE + int(shapes[distances.argmax()])
    return FIRST_COUNT + int((shapes == shapes[a]).sum()) - 1


def answer_ternary(centres: np.ndarray, a: int, b: int, subtype: int) -> int:
    """Answer a question about A, B and all other objects."""
    others = np.delete(centres, (a, b), axis=0)
    corner_a, corner_b = centres[a], centres[b]
    if subtype == 0:
        low, high = np.minimum(corner_a, corner_b), np.maximum(corner_a, corner_b)
        return FIRST_COUNT + int(((others >= low) & (others <= high)).all(axis=1).sum())
    if subtype == 1:
        slope = (corner_b[1] - corner_a[1]) / (corner_b[0] - corner_a[0] + 1e-10)
        heights = corner_a[1] + slope * (others[:, 0] - corner_a[0])
        return YES if (np.abs(others[:, 1] - heights) <= 12).any() else NO
    squared_sides = np.stack(
        [
            np.broadcast_to(((corner_a - corner_b) ** 2).sum(), len(others)),
            ((others - corner_a) ** 2).sum(axis=1),
            ((others - corner_b) ** 2).sum(axis=1),
        ]
    )
    longest = squared_sides.max(axis=0)
    # The largest angle faces the longest side. Its cosine is -1, an angle of 180 degrees, where all lie on one line.
    is_obtuse = longest >= squared_sides.sum(axis=0) - longest
    cross = (corner_b - corner_a)[0] * (others - corner_a)[:, 1] - (corner_b - corner_a)[1] * (others - corner_a)[:, 0]
    return FIRST_COUNT + int((is_obtuse & (cross != 0)).sum())


def answer_question(
    centres: np.ndarray, shapes: np.ndarray, type_name: str, subtype: int, a: int, b: int, variant: str
) -> int:
    """Answer a question of any type; only ternary ones look at B."""
    if type_name == "ternary":
        return answer_ternary(centres, a, b, subtype)
    if type_name == "binary":
        return answer_binary(centres, shapes, a, subtype, variant)
    if subtype == 0:
        return FIRST_SHAPE + int(shapes[a])
    return YES if centres[a][subtype - 1] < CANVAS_SIZE / 2 else NO


def answer_encoded(centres: np.ndarray, shapes: np.ndarray, questions: np.ndarray, variant: str) -> np.ndarray:
    """Answer questions about a scene, (num_questions, 18) bits -> (num_questions,)."""
    parts = np.split(questions, np.cumsum([NUM_OBJECTS, NUM_OBJECTS, 3]), axis=1)
    rows = zip(*(part.argmax(axis=1).tolist() for part in parts))
    return np.array(
        [
            answer_question(centres, shapes, QUESTION_TYPES[kind], subtype, a, b, variant)
            for a, b, kind, subtype in rows
        ]
    )


def augment_scene(
    centres: np.ndarray, shapes: np.ndarray, questions: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Flip and transpose a scene at random, and give its first five objects each other's colors.

    The sixth color keeps its place, since no ternary question asks about it. The answers are those to the questions
    that are returned, about the scene that is returned: nothing has to be left out.

    Args:
        centres: (6, 2) pixels.
        shapes: (6,).
        questions: (num_questions, 18) bits.
        random: Where to draw from.
    """
    flips, transposes = random.random(2) < 0.5, random.random() < 0.5
    centres = np.where(flips, CANVAS_SIZE - 1 - centres, centres)
    if transposes:
        centres = centres[:, ::-1]
    # Place i of the new scene is taken by the object that was at sources[i].
    sources = np.append(random.permutation(NUM_OBJECTS - 1), NUM_OBJECTS - 1)
    columns = [*sources, *(NUM_OBJECTS + sources), *range(2 * NUM_OBJECTS, QUESTION_SIZE)]
    return centres[sources], shapes[sources], questions[:, columns]


def encode_question(type_index: int, subtype: int, a: int, b: int | None = None) -> np.ndarray:
    """Encode a question as its 18 bits."""
    question = np.zeros(QUESTION_SIZE, dtype=np.uint8)
    question[a] = 1
    if b is not None:
        question[NUM_OBJECTS + b] = 1
    question[2 * NUM_OBJECTS + type_index] = 1
    question[2 * NUM_OBJECTS + 3 + subtype] = 1
    return question


def draw_questions(random: np.random.Generator, num_questions: Sequence[int]) -> np.ndarray:
    """Draw so many questions of each type, as (num_questions, 18) bits. No ternary one is about the sixth color."""
    questions = []
    for type_index, number in enumerate(num_questions):
        for _ in range(number):
            subtype = int(random.integers(0, 3))
            if QUESTION_TYPES[type_index] == "ternary":
                a, b = random.choice(NUM_OBJECTS - 1, size=2, replace=False).tolist()
                questions.append(encode_question(type_index, subtype, a, b))
            else:
                questions.append(encode_question(type_index, subtype, int(random.integers(0, NUM_OBJECTS))))
    return np.stack(questions)


def describe_question(question: Any) -> str:
    """Put the 18 bits of a question into words."""
    question = np.asarray(question)
    type_name = QUESTION_TYPES[int(question[12:15].argmax())]
    words = WORDS[type_name][int(question[15:].argmax())]
    return words.format(a=COLOR_NAMES[int(question[:6].argmax())], b=COLOR_NAMES[int(question[6:12].argmax())])


def make_example(variant: str, random: np.random.Generator) -> dict[str, Any]:
    """Make one image with ten questions of each type, and their answers."""
    centres = place_objects(random)
    shapes = random.integers(0, 2, size=NUM_OBJECTS)
    questions = draw_questions(random, [QUESTIONS_PER_TYPE] * len(QUESTION_TYPES))
    return {
        "image": encode_png(paint(centres, shapes)),
        "questions": questions,
        "answers": answer_encoded(centres, shapes, questions, variant),
        "centres": centres,
        "shapes": shapes,
    }


class SortOfClevr(GeneratedBuilder):
    """
    Rows are images, each with 30 questions.

    Columns: `image`; `questions` (30, 18) bits; `answers` (30,); `centres` (6, 2) pixels, (x, y) in the order of
    `COLORS`; `shapes` (6,). Variant `fixed` excludes an object from being its own closest one, `original` does not.
    """

    variants = ("fixed", "original")
    default_sizes = (9800, 200)
    description = "Sort-of-CLEVR with non-relational, binary and ternary questions."
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "questions": datasets.List(datasets.List(datasets.Value("uint8"), length=QUESTION_SIZE)),
            "answers": datasets.List(datasets.ClassLabel(names=list(ANSWERS))),
            "centres": datasets.List(datasets.List(datasets.Value("int32"), length=2)),
            "shapes": datasets.List(datasets.ClassLabel(names=list(SHAPES))),
        }
    )
    make_example = staticmethod(make_example)
