"""The figure: what it draws, in which order, and that no label stands on another."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from examples.visualization import figure
from examples.visualization.ablation import measure_ablations
from examples.visualization.figure import Pictured, describe_portrait, draw_portrait, measure_portrait
from examples.visualization.image_panels import blend_slots, find_colors, find_strongest_slots
from examples.visualization.measure import observe
from examples.visualization.memory_panels import cut_patch
from examples.visualization.page import SLOT_COLORS, paint, wrap


LONG = "a name of a class that has forty letters"


def restore(pixels):
    return pixels.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def make_portrait(model, batch, num_images=2, **fields):
    names = {index: f"{LONG[:-1]}{index}" for index in range(3)}
    texts = ["How many form an obtuse triangle with orange and yellow?"] * num_images if "question" in batch else []
    pictured = Pictured("a $model", [batch], num_images, restore, names, texts, [names[0]] * num_images, **fields)
    return measure_portrait(model, pictured)


def list_boxes(page):
    """Text and corners, in pixels, of every label that is seen."""
    texts = list(page.figure.texts)
    for axis in page.figure.axes:
        texts += axis.texts
        if axis.axison:
            texts += [axis.xaxis.label, axis.yaxis.label]
            for part, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
                ticks = zip(part.get_majorticklocs(), part.get_ticklabels())
                texts += [label for place, label in ticks if min(limits) <= place <= max(limits)]
    return [(text.get_text(), text.get_window_extent().extents) for text in texts if text.get_text().strip()]


@pytest.mark.parametrize(
    "fields",
    [
        {"num_memory_slots": 2, "num_hidden_layers": 1},
        {"num_memory_slots": 12, "num_hidden_layers": 12},
        {"num_memory_slots": 128, "num_hidden_layers": 2, "question_size": 5},
    ],
    ids=["2 slots, 1 layer", "12 slots, 12 layers", "128 slots, questions"],
)
def test_no_label_stands_on_another_or_beyond_the_page(make_seen, fields):
    model, batch = make_seen(**fields)
    memories = {
        str(step): [memory + step * torch.randn(memory.shape) for memory in model.ait.memories] for step in (1, 20_000)
    }
    ablation = {
        "accuracy": 99.5,
        "without_memory": 33.25,
        "without_memory_of_layer": [90.0] * len(model.ait.layers),
        "without_slot": [[98.0 + slot % 2 for slot in range(fields["num_memory_slots"])]] * len(model.ait.layers),
    }
    portrait = make_portrait(model, batch, memories=memories, ablation=ablation, unablated=[f"other {LONG}"] * 2)
    portrait.pictured.note = "note " * 80
    page = figure.lay_out(portrait)
    # Labels of axes find their places when they are drawn.
    page.figure.draw_without_rendering()
    boxes = list_boxes(page)
    corners = np.array([box for _, box in boxes])
    assert len(boxes) > 40
    assert not [name for name, box in boxes if min(box) < 0]
    assert corners[:, 2].max() <= page.figure.bbox.width and corners[:, 3].max() <= page.figure.bbox.height
    # One pixel of tolerance, since letters do not fill their boxes.
    left, low, right, high = (corners[:, index] for index in range(4))
    meets = (left[:, None] < right[None] - 1) & (left[None] < right[:, None] - 1)
    meets &= (low[:, None] < high[None] - 1) & (low[None] < high[:, None] - 1)
    np.fill_diagonal(meets, False)
    assert not [(boxes[one][0], boxes[other][0]) for one, other in np.argwhere(meets)]


def test_every_kind_of_model_is_drawn_and_stays_as_it_is(make_seen, fields, assert_unchanged, tmp_path):
    model, batch = make_seen(**fields)
    check = assert_unchanged(model)
    draw_portrait(make_portrait(model, batch, ablation=measure_ablations(model, [batch])), tmp_path / "memory.png")
    check()
    with Image.open(tmp_path / "memory.png") as picture:
        assert picture.size[0] > 1500 and len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_one_image_and_the_same_numbers_give_the_same_svg(make_seen, tmp_path):
    model, batch = make_seen(1)
    for name in ("one.svg", "other.svg"):
        draw_portrait(make_portrait(model, batch, 1), tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text.startswith("<?xml") and text == (tmp_path / "other.svg").read_text()


def test_numbers_are_those_drawn(make_seen, fields):
    model, batch = make_seen(**fields)
    memories = {"1": [memory + 1 for memory in model.ait.memories], "2": model.ait.memories}
    portrait = make_portrait(model, batch, memories=memories)
    numbers = json.loads(json.dumps(describe_portrait(portrait), allow_nan=False))
    seen = observe(model, {name: tensor[:2] for name, tensor in batch.items()})
    retrieval = torch.tensor(numbers["retrieval_attention"])
    assert retrieval.shape == (2, 2, 2, 3, 3)
    torch.testing.assert_close(retrieval.flatten(2, 3), seen.patch_retrieval, rtol=1e-4, atol=1e-5)
    assert torch.tensor(numbers["energies"]).shape == (2, 2, 2, 2, 3)
    assert torch.tensor(numbers["movement_degrees"]).shape == (1, 2, 3) and numbers["checkpoints"] == ["1", "2"]
    assert sum(numbers["slot_use"]["tokens"][0]) == portrait.use.tokens[0].sum()
    assert numbers["layers_drawn"] == [0, 1]
    assert (numbers["question_attention"] is None) == ("question" not in batch)
    predicted = seen.logits.argmax(dim=-1).tolist()
    assert [name[-1] for name in numbers["predictions"]] == [str(index) for index in predicted]


def test_layers_that_are_chosen_are_drawn_alone(make_seen):
    model, batch = make_seen(num_hidden_layers=4, question_size=5)
    portrait = make_portrait(model, batch, layers=[3, 1, 3])
    assert portrait.layers == [1, 3]
    texts = {text.get_text() for text in figure.lay_out(portrait).figure.texts}
    named = {word for text in texts for word in ("layer 0", "layer 1", "layer 2", "layer 3") if word in text}
    assert named == {"layer 1", "layer 3"}


def test_labels_say_what_is_right_and_what_all_slots_would_say(make_seen):
    model, batch = make_seen(2)
    portrait = make_portrait(model, batch)
    said = [portrait.pictured.label_names[int(index)] for index in portrait.observation.logits.argmax(dim=-1)]
    portrait.pictured.answers = [said[0], "owl"]
    portrait.pictured.unablated = [said[0], "cat"]
    one, other = figure.label_rows(portrait)
    assert one[0].startswith("1. ") and one[-1] == "right"
    assert other[-2:] == ["wrong: it is owl", "with all slots: cat"]


def test_colours_go_to_the_most_used_slots_and_grey_to_the_others():
    winners = np.array([[slot] * (20 - slot) for slot in range(0, 20, 2)], dtype=object)
    colors = find_colors(np.concatenate([np.array(row) for row in winners]).astype(int), 20)
    assert list(colors) == [0, 2, 4, 6, 8, 10, 12] and list(colors.values()) == list(SLOT_COLORS)
    image = np.ones((4, 6, 3))
    picture = blend_slots(image, np.array([[0, 14]]), np.array([[1.0, 0.0]]), colors)
    assert picture.shape == image.shape
    np.testing.assert_allclose(picture[0, 0], [0xE6 / 255, 0x9F / 255, 0])
    np.testing.assert_allclose(picture[3, 5], 1.0)


def test_strongest_slots_of_an_image_are_those_with_most_attention():
    retrieval = np.zeros((1, 2, 2, 4))
    retrieval[..., 3], retrieval[0, 0, 0, 1], retrieval[0, 1, 1, 1] = 0.3, 0.5, 0.5
    assert find_strongest_slots(retrieval, 2).tolist() == [[3, 1]]


def test_patch_is_cut_with_paler_surroundings():
    image = np.zeros((4, 6, 3))
    image[2:, 4:] = 0.5
    cut = cut_patch(image, 5, (2, 3))
    assert cut.shape == (4, 4, 3)
    assert (cut[1:3, 1:3] == 0.5).all() and (cut[0, :3] == 0.55).all() and (cut[3] == 1).all()


def test_colours_of_numbers_end_at_both_ends_and_texts_with_dots():
    picture = paint([[-5.0, 0.0, 1.0, 5.0]], "viridis", 0, 1)
    assert (picture[0, 0] == picture[0, 1]).all() and (picture[0, 2] == picture[0, 3]).all()
    assert (picture[0, 1] != picture[0, 2]).any()
    assert paint([[2.0]], "viridis", 2, 2).shape == (1, 1, 3)
    assert wrap("one two three", 0.5, 7.5, 1) == ["one two…"] and wrap("", 1, 7.5, 2) == [""]
