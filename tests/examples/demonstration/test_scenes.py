"""Scenes and questions of the page: chosen in words, encoded as the data set has them, answered by its rules."""

import numpy as np
import pytest
import torch

from examples.data.sort_of_clevr import ANSWERS, SortOfClevr, answer_encoded, describe_question
from examples.demonstration import scenes
from examples.errors import InputError
from examples.visualization.measure import observe


def test_scene_is_a_row_of_the_test_split(opened_questions):
    scene = scenes.make_scene(opened_questions, 7)
    row = SortOfClevr.generate("fixed", 0, 1, 7)
    assert np.array_equal(scene.centres, row["centres"]) and np.array_equal(scene.shapes, row["shapes"])
    assert scene.pixel_values.shape == (3, 75, 75)
    for number in (None, -1, scenes.NUM_SCENES):
        with pytest.raises(InputError, match="no scene of this number"):
            scenes.make_scene(opened_questions, number)


def test_every_question_is_the_one_that_its_words_say():
    assert len(scenes.QUESTIONS) == 9
    for words in scenes.QUESTIONS:
        said = describe_question(scenes.encode(words, "blue", "grey"))
        assert said == words.replace(" A", " blue").replace(" B", " grey")


def test_answer_and_truth(opened_questions):
    scene = scenes.make_scene(opened_questions, 3)
    text, look = scenes.ask(opened_questions, scene, "How many are in the box between A and B?", "red", "grey")
    assert text == "How many are in the box between red and grey?"
    bits = scenes.encode("How many are in the box between A and B?", "red", "grey")
    assert look.truth == ANSWERS[int(answer_encoded(scene.centres, scene.shapes, bits[None], "fixed")[0])]
    batch = {"pixel_values": scene.pixel_values[None], "question": torch.from_numpy(bits)[None].float()}
    assert torch.equal(look.observation.logits, observe(opened_questions.model, batch).logits)
    _, other = scenes.ask(opened_questions, scene, "How many are in the box between A and B?", "grey", "green")
    assert not torch.equal(look.observation.logits, other.observation.logits)


def test_questions_that_are_never_asked_are_refused():
    with pytest.raises(InputError, match="both red: choose two"):
        scenes.encode("Is any near the line through A and B?", "red", "red")
    with pytest.raises(InputError, match="has yellow among them"):
        scenes.encode("Is any near the line through A and B?", "yellow", "red")
    # A question about one object has no B.
    assert scenes.encode("Is A at the top?", "yellow", "yellow").sum() == 3
