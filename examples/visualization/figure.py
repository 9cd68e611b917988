"""The figure of a model's memory: all numbers in one place, and the drawing of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from examples.visualization.fonts import use_all_fonts
from examples.visualization.image_panels import (
    describe_lines,
    draw_energy_panel,
    draw_heat_panel,
    draw_layer_panel,
    draw_slot_panel,
)
from examples.visualization.measure import Observation, get_encoder, measure_write, observe
from examples.visualization.memory_panels import NUM_PATCHES, SLOTS_SHOWN, LayerNumbers, cut_patch, draw_memory_panels
from examples.visualization.page import Page, arrange
from examples.visualization.slots import (
    SlotUse,
    StrongestPatches,
    compare_slots,
    measure_movement,
    measure_slot_use,
)


@dataclass
class Pictured:
    """
    What is looked at.

    Args:
        name: What the figure calls the model.
        batches: Batches that the model takes, one question for each image if it takes any. The first images of the
            first one are drawn; all of that batch compete in the write.
        num_images: Images to draw.
        restore: Turns `pixel_values` `(num_channels, height, width)` into a picture (height, width, 3) from 0 to 1.
        label_names: Names of the classes or answers.
        texts: What else stands beside the images: their questions.
        answers: Names of the right classes or answers, as far as they are known.
        unablated: What the model predicts with all its slots, if some are taken away.
        memories: Memories of earlier checkpoints by their steps, in order.
        ablation: What `measure_ablations` gives.
        note: What a reader has to know.
        layers: Layers to draw; by default all.
    """

    name: str
    batches: Sequence[dict[str, torch.Tensor]]
    num_images: int
    restore: Callable[[torch.Tensor], np.ndarray]
    label_names: Mapping[int, str]
    texts: Sequence[str] = ()
    answers: Sequence[str] = ()
    unablated: Sequence[str] = ()
    memories: Mapping[str, Sequence[torch.Tensor]] | None = None
    ablation: Mapping[str, Any] | None = None
    note: str = ""
    layers: Sequence[int] = ()


@dataclass
class Portrait:
    """The numbers of a figure, see `Pictured` and the functions that give them."""

    pictured: Pictured
    observation: Observation
    write: torch.Tensor
    similarity: torch.Tensor
    use: SlotUse
    strongest: StrongestPatches
    steps: list[str]
    movement: torch.Tensor | None

    @property
    def layers(self) -> list[int]:
        """The layers that are drawn."""
        return sorted(set(self.pictured.layers)) or list(range(len(self.similarity)))


def measure_portrait(model: PreTrainedModel, pictured: Pictured) -> Portrait:
    """
    Measure all that the figure shows; the model stays as it is.

    Raises:
        InputError: if the model has no memory.
    """
    first = pictured.batches[0]
    drawn = {name: tensor[: pictured.num_images] for name, tensor in first.items()}
    observation = observe(model, drawn)
    use, strongest = measure_slot_use(model, pictured.batches, NUM_PATCHES)
    write = measure_write(model, first)[:, : len(drawn["pixel_values"])]
    memories = pictured.memories or {}
    movement = None
    if len(memories) > 1:
        states = list(memories.values())
        movement = torch.stack([measure_movement(*pair) for pair in pairwise(states)])
    similarity = compare_slots(get_encoder(model).memories)
    return Portrait(pictured, observation, write, similarity, use, strongest, list(memories), movement)


def split_grid(portrait: Portrait, values: torch.Tensor, dim: int = -1) -> np.ndarray:
    """Turn the dimension of the patches into rows and columns."""
    return values.unflatten(dim, portrait.observation.layout.grid).numpy()


def label_rows(portrait: Portrait) -> list[list[str]]:
    """What stands beside each image: its question, what the model says, and what is right."""
    pictured, labels = portrait.pictured, []
    probabilities = portrait.observation.logits.softmax(dim=-1)
    for row, (probability, index) in enumerate(zip(*probabilities.max(dim=-1))):
        parts = [(f"{row + 1}. {pictured.texts[row]}", 4)] if pictured.texts else []
        said = f"{pictured.label_names[int(index)]} ({100 * probability:.0f} %)"
        parts.append((said if parts else f"{row + 1}. {said}", 3))
        if row < len(pictured.answers):
            is_right = pictured.answers[row] == pictured.label_names[int(index)]
            parts.append(("right" if is_right else f"wrong: it is {pictured.answers[row]}", 3))
        if row < len(pictured.unablated) and pictured.unablated[row] != pictured.label_names[int(index)]:
            parts.append((f"with all slots: {pictured.unablated[row]}", 3))
        labels.append(describe_lines(parts))
    return labels


def make_image_panels(portrait: Portrait) -> list:
    """The panels that show the images."""
    pictured, observation, layers = portrait.pictured, portrait.observation, portrait.layers
    images = [pictured.restore(pixels) for pixels in pictured.batches[0]["pixel_values"][: pictured.num_images]]
    retrieval = split_grid(portrait, observation.patch_retrieval[layers], 2)
    num_competing = len(pictured.batches[0]["pixel_values"])
    panels = [
        draw_slot_panel(images, retrieval, layers, label_rows(portrait)),
        draw_layer_panel(
            images,
            100 * split_grid(portrait, portrait.write[layers]),
            layers,
            f"Share of the write that each patch wins (% of a batch of {num_competing})",
        ),
        draw_energy_panel(images, split_grid(portrait, observation.patch_energies[layers]), layers),
        draw_heat_panel(images, retrieval, layers),
    ]
    if observation.question_attention is not None and observation.question_retrieval is not None:
        strength, slots = observation.question_retrieval[layers].max(dim=-1)  # (num_layers, num_images)
        captions = [
            [f"slot {slot} ({value:.2f})" for value, slot in zip(*column)]
            for column in zip(strength.T.tolist(), slots.T.tolist())
        ]
        panels.insert(
            1,
            draw_layer_panel(
                images,
                split_grid(portrait, observation.question_attention[layers]),
                layers,
                "Self-attention of the question (share of 1; below: what it retrieves)",
                captions,
            ),
        )
    return panels


def make_memory_panels(portrait: Portrait, layer: int) -> list:
    """The panels that show the memory of a layer, in a line of their own where there are few layers."""
    pictured, use, strongest = portrait.pictured, portrait.use, portrait.strongest
    pixels = [image for batch in pictured.batches for image in batch["pixel_values"]]
    tokens = use.tokens[layer]
    most_used = sorted(tokens.argsort(descending=True, stable=True)[:SLOTS_SHOWN].tolist())
    # Of a slot that was taken away there is nothing to show.
    most_used = [slot for slot in most_used if strongest.attention[layer, slot, 0] > 0]
    if len(tokens) > SLOTS_SHOWN:
        most_used = [slot for slot in most_used if tokens[slot] > 0]
    grid, ablation = portrait.observation.layout.grid, pictured.ablation
    patches = [
        [
            cut_patch(pictured.restore(pixels[int(image)]), int(patch), grid)
            for image, patch in zip(strongest.images[layer, slot], strongest.patches[layer, slot])
        ]
        for slot in most_used
    ]
    if ablation is not None:
        of_layer = {name: ablation[name][layer] for name in ("without_memory_of_layer", "without_slot")}
        ablation = {**ablation, **of_layer}
    numbers = LayerNumbers(
        similarity=portrait.similarity[layer].numpy(),
        tokens=use.tokens[layer].numpy(),
        entropy=float(use.entropy[layer]),
        steps=portrait.steps,
        movement=None if portrait.movement is None else portrait.movement[:, layer].numpy(),
        ablation=ablation,
        slots=most_used,
        patches=patches,
        attention=strongest.attention[layer, most_used].numpy(),
    )
    is_wide = len(portrait.layers) <= 2
    return draw_memory_panels(layer, numbers, is_wide, is_wide or layer == portrait.layers[0])


def lay_out(portrait: Portrait) -> Page:
    """The page of the figure."""
    panels = make_image_panels(portrait)
    for layer in portrait.layers:
        panels += make_memory_panels(portrait, layer)
    return arrange(panels, f"The memory of {portrait.pictured.name}", portrait.pictured.note)


def draw_portrait(portrait: Portrait, file: Path) -> None:
    """Draw the figure into a file that ends in .png or .svg; the same numbers give the same file."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "modeling_ait"}), use_all_fonts():
        page = lay_out(portrait)
        # Without a date, so that the same numbers give the same file.
        is_svg = file.suffix == ".svg"
        page.figure.savefig(file, dpi=150, metadata={"Date": None} if is_svg else {"Software": None})


def round_numbers(values: Any) -> Any:
    """A tensor, or what holds some, as lists of numbers of six digits."""
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [round_numbers(value) for value in values]
    return float(f"{values:.6g}") if isinstance(values, float) else values


def describe_portrait(portrait: Portrait) -> dict[str, Any]:
    """The numbers drawn, as JSON can hold them. Layers, slots, images, rows and columns count from 0."""
    pictured, observation, use = portrait.pictured, portrait.observation, portrait.use
    probabilities, indices = observation.logits.softmax(dim=-1).max(dim=-1)
    attention = observation.question_attention
    numbers = {
        "kind": "portrait",
        "layers_drawn": portrait.layers,
        "patch_grid": observation.layout.grid,
        "predictions": [pictured.label_names[int(index)] for index in indices],
        "probabilities": probabilities,
        "questions": list(pictured.texts[: pictured.num_images]),
        "answers": list(pictured.answers[: pictured.num_images]),
        # (num_layers, num_images, rows, columns, num_slots)
        "retrieval_attention": torch.from_numpy(split_grid(portrait, observation.patch_retrieval, 2)),
        # (num_layers, before and after, num_images, rows, columns)
        "energies": torch.from_numpy(split_grid(portrait, observation.patch_energies)),
        # (num_layers, num_images, rows, columns)
        "write_shares": torch.from_numpy(split_grid(portrait, portrait.write)),
        "question_attention": None if attention is None else torch.from_numpy(split_grid(portrait, attention)),
        "question_retrieval": observation.question_retrieval,
        "slot_similarity": portrait.similarity,
        "slot_use": {
            "tokens": use.tokens,
            "attention": use.attention,
            "entropy_bits": use.entropy,
            "token_entropy_bits": use.token_entropy,
            "dead_slots": [is_dead.nonzero().flatten() for is_dead in use.is_dead],
        },
        "strongest_patches": {
            "attention": portrait.strongest.attention,
            "images": portrait.strongest.images,
            "patches": portrait.strongest.patches,
        },
        "checkpoints": portrait.steps,
        "movement_degrees": portrait.movement,
        "ablation": pictured.ablation,
    }

    def turn(value: Any) -> Any:
        return (
            {name: turn(part) for name, part in value.items()} if isinstance(value, Mapping) else round_numbers(value)
        )

    return json.loads(json.dumps(turn(numbers)))
