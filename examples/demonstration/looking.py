"""What the page shows of one image: classes by probability, and pictures of a layer's memory at work."""

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
import torch

from examples.demonstration.opening import Opened
from examples.sharing import show
from examples.visualization.image_panels import (
    draw_energy_panel,
    draw_heat_panel,
    draw_layer_panel,
    draw_slot_panel,
)
from examples.visualization.measure import Observation, observe
from examples.visualization.page import Page, Panel


# Of the pictures: the width of an image and the edge around them in inches, and dots per inch.
CELL, EDGE, DPI = 0.9, 0.05, 180
NUM_CLASSES = 5


@dataclass(frozen=True)
class Look:
    """
    An image, and what the model did with it.

    Args:
        picture: (height, width, 3), from 0 to 1.
        observation: What the memories did, of this one image.
        truth: The right class or answer, if it is known.
    """

    picture: np.ndarray
    observation: Observation
    truth: str | None = None


def look_at(
    opened: Opened, pixel_values: torch.Tensor, question: torch.Tensor | None = None, truth: str | None = None
) -> Look:
    """
    Run the model on one image; it stays as it is.

    Args:
        opened: The checkpoint.
        pixel_values: (num_channels, height, width).
        question: (question_size,), for a model that takes one.
        truth: The right class or answer, if it is known.
    """
    batch = {"pixel_values": pixel_values[None]} | ({} if question is None else {"question": question[None].float()})
    with opened.lock:
        observation = observe(opened.model, batch)
    return Look(opened.restore(pixel_values), observation, truth)


def rank_classes(opened: Opened, look: Look) -> dict[str, float]:
    """The most probable classes with their probabilities, the most probable first."""
    values, indices = look.observation.logits[0].softmax(dim=-1).topk(min(NUM_CLASSES, len(opened.label_names)))
    return {show(opened.label_names[index]): value for value, index in zip(values.tolist(), indices.tolist())}


def judge(opened: Opened, look: Look) -> str:
    """Whether the prediction is right, in words; empty where the truth is not known."""
    if look.truth is None:
        return ""
    is_right = opened.label_names[int(look.observation.logits[0].argmax())] == look.truth
    return f"{'Right' if is_right else 'Wrong'}: it is {look.truth}."


def make_panels(look: Look, layer: int) -> list[Panel]:
    """Panels of one layer: which slot each patch retrieves, where the strongest are retrieved, and the energies."""
    observation = look.observation
    grid = observation.layout.grid
    retrieval = observation.patch_retrieval[[layer]].unflatten(2, grid).numpy()
    energies = observation.patch_energies[[layer]].unflatten(-1, grid).numpy()
    images, layers = [look.picture], [layer]
    panels = [
        draw_slot_panel(images, retrieval, layers, [[""]], CELL),
        draw_heat_panel(images, retrieval, layers, CELL),
        draw_energy_panel(images, energies, layers, CELL),
    ]
    if observation.question_attention is not None and observation.question_retrieval is not None:
        strength, slot = observation.question_retrieval[layer, 0].max(dim=-1)
        attention = observation.question_attention[[layer]].unflatten(-1, grid).numpy()
        title = "Where the question looks: its self-attention (share of 1; below: the slot that it retrieves most)"
        captions = [[f"slot {slot} ({strength:.2f})"]]
        panels.insert(0, draw_layer_panel(images, attention, layers, title, captions, CELL))
    return panels


def draw_figure(panel: Panel) -> str:
    """A panel as HTML: a picture that no file holds, below its title."""
    page = Page(panel.width + 2 * EDGE, panel.height + 2 * EDGE)
    panel.draw(page, EDGE, EDGE)
    return embed(page, panel.title)


def embed(page: Page, title: str) -> str:
    """A page as HTML, below a title."""
    buffer = io.BytesIO()
    page.figure.savefig(buffer, format="png", dpi=DPI)
    data = base64.b64encode(buffer.getvalue()).decode()
    title, width = html.escape(title), int(96 * page.width * 1.4)
    return (
        f'<figure class="panel" style="max-width: {width}px"><figcaption>{title}</figcaption>'
        f'<img alt="{title}" src="data:image/png;base64,{data}"></figure>'
    )


def draw_look(look: Look, layer: int) -> str:
    """All pictures of a layer as HTML."""
    return f'<div class="panels">{"".join(draw_figure(panel) for panel in make_panels(look, layer))}</div>'
