"""What the page shows of an image: the model's own numbers, and a picture of each."""

import base64
import io
import re

import pytest
import torch
from PIL import Image

from examples.demonstration.adapting import Adapter, draw_curve, draw_last_images
from examples.demonstration.looking import NUM_CLASSES, draw_look, judge, look_at, make_panels, rank_classes
from tests.examples.demonstration.conftest import open_digits


def open_pictures(html):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_classes_come_by_probability(opened):
    look = look_at(opened, opened.images.pixels[0], truth="3")
    with torch.no_grad():
        probabilities = opened.model(opened.images.pixels[:1]).logits[0].softmax(dim=-1)
    ranked = rank_classes(opened, look)
    assert len(ranked) == NUM_CLASSES and list(ranked.values()) == sorted(ranked.values(), reverse=True)
    for name, value in ranked.items():
        assert value == pytest.approx(probabilities[int(name)].item(), rel=1e-4)
    said = next(iter(ranked))
    assert judge(opened, look) == f"{'Right' if said == '3' else 'Wrong'}: it is 3."
    assert judge(opened, look_at(opened, opened.images.pixels[0])) == ""


def test_every_layer_has_its_pictures(opened, opened_questions):
    look = look_at(opened, opened.images.pixels[0])
    drawn = [draw_look(look, layer) for layer in range(opened.num_layers)]
    assert opened.num_layers == 2 and drawn[0] != drawn[1]
    for html in drawn:
        pictures = open_pictures(html)
        assert len(pictures) == 3 and all(picture.size[0] > 300 for picture in pictures)
        assert html.count("<figcaption>") == 3 and 'alt=""' not in html
    asked = look_at(opened_questions, torch.zeros(3, 75, 75), torch.eye(18)[0])
    titles = [panel.title for panel in make_panels(asked, 1)]
    assert len(titles) == 4 and titles[0].startswith("Where the question looks")


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": (8, 24), "num_memory_slots": 128},
        {"num_hidden_layers": 1, "num_memory_slots": 1},
        {"pooling": "cls", "num_register_tokens": 2},
        {"dtype": torch.bfloat16},
    ],
)
def test_models_of_other_shapes(fields, tmp_path):
    other = open_digits(tmp_path / "run", **fields)
    look = look_at(other, other.images.pixels[0])
    assert sum(rank_classes(other, look).values()) <= 1.001
    assert len(open_pictures(draw_look(look, other.num_layers - 1))) == 3
    adapter = Adapter(other)
    stream = adapter.send(adapter.start(), "blur", 1.0, "written", 1)
    assert len(open_pictures(draw_curve(stream) + draw_last_images(stream))) == 2
