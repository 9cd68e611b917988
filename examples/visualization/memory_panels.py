"""What the figure shows of the memory of each layer: likeness and use of its slots, movement, ablation, patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.visualization.page import (
    LINE,
    NORMAL,
    SIMILARITY,
    SMALL,
    Page,
    Panel,
    Scale,
    draw_scale,
    wrap,
)


WIDTH = 3.15
# Room for the numbers and the name of a vertical axis, and for those of a horizontal one.
LEFT, BELOW = 0.46, 0.34
PLOT_HEIGHT, SQUARE = 0.95, 1.8
HEAD = 2 * LINE * NORMAL + 0.06
BLUE, RED, GREY = "#0072B2", "#D55E00", "#606060"
# Slots on a contact sheet, patches of each, the side of a patch in inches, and the room for the name of a slot.
SLOTS_SHOWN, NUM_PATCHES, PATCH, SLOT_LABEL = 32, 4, 0.23, 0.58


@dataclass(frozen=True)
class LayerNumbers:
    """
    What is drawn of the memory of one layer.

    Args:
        similarity: Cosine similarity of the slots, (num_slots, num_slots).
        tokens: Tokens that retrieve each slot more than any other, (num_slots,).
        entropy: Entropy of the slots' shares of the retrieval attention, in bits.
        steps: Steps of the checkpoints, the first included.
        movement: Angle by which each slot moved since the checkpoint before, in degrees, (len(steps) - 1, num_slots).
        ablation: `accuracy`, `without_memory`, `without_memory_of_layer` and `without_slot` (num_slots,), in percent.
        slots: The slots of the contact sheet.
        patches: For each of them pictures (height, width, 3) of the patches that retrieve it most strongly.
        attention: How strongly, for each picture.
    """

    similarity: np.ndarray
    tokens: np.ndarray
    entropy: float
    steps: Sequence[str]
    movement: np.ndarray | None
    ablation: Mapping[str, Any] | None
    slots: Sequence[int]
    patches: Sequence[Sequence[np.ndarray]]
    attention: np.ndarray


def add_plot(page: Page, left: float, top: float, title: str, names: tuple[str, str]) -> Any:
    """Axes with a title of up to two lines and the names of both axes."""
    page.write(left, top, "\n".join(wrap(title, WIDTH, NORMAL, 2)))
    axis = page.add_axis(left + LEFT, top + HEAD, WIDTH - LEFT, PLOT_HEIGHT)
    axis.set_xlabel(names[0], fontsize=SMALL, labelpad=1)
    axis.set_ylabel(names[1], fontsize=SMALL, labelpad=1)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return axis


def draw_similarity(page: Page, left: float, top: float, numbers: LayerNumbers) -> None:
    """How alike the slots are."""
    page.write(left, top, "cosine similarity of the slots")
    axis = page.add_axis(left + LEFT, top + HEAD, SQUARE, SQUARE)
    axis.imshow(numbers.similarity, cmap=SIMILARITY, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    for name, set_label in (("x", axis.set_xlabel), ("y", axis.set_ylabel)):
        set_label("slot", fontsize=SMALL, labelpad=1)
        axis.locator_params(axis=name, integer=True, nbins=6, min_n_ticks=1)
    draw_scale(page, left + LEFT + SQUARE + 0.12, top + HEAD + 0.1, WIDTH - SQUARE - LEFT - 0.16, SCALE)


SCALE = Scale(0, 1, SIMILARITY, -1, 1)


def mark_slots(axis: Any, num_slots: int) -> None:
    """A horizontal axis of slots."""
    axis.set_xlim(-0.7, num_slots - 0.3)
    axis.locator_params(axis="x", integer=True, nbins=9, min_n_ticks=1)


def draw_use(page: Page, left: float, top: float, numbers: LayerNumbers) -> None:
    """How many tokens retrieve each slot."""
    num_slots, dead = len(numbers.tokens), np.flatnonzero(numbers.tokens == 0)
    title = (
        f"use: {numbers.tokens.sum():,} tokens; entropy {numbers.entropy:.2f} of {np.log2(num_slots):.2f} bits; "
        f"{len(dead)} of {num_slots} slots dead (x)"
    )
    axis = add_plot(page, left, top, title, ("slot", "tokens (first choice)"))
    axis.bar(range(num_slots), numbers.tokens, width=0.8, color=BLUE)
    axis.plot(dead, np.zeros(len(dead)), "x", color=RED, markersize=min(3, max(1, 60 / num_slots)), clip_on=False)
    mark_slots(axis, num_slots)
    axis.locator_params(axis="y", integer=True, nbins=4, min_n_ticks=1)
    axis.set_ylim(0, None)


def draw_movement(page: Page, left: float, top: float, numbers: LayerNumbers) -> None:
    """How far each slot moved from checkpoint to checkpoint."""
    assert numbers.movement is not None
    title = f"movement of each slot since the checkpoint before (from {numbers.steps[0]}); black: mean"
    axis = add_plot(page, left, top, title, ("checkpoint (step)", "angle (degrees)"))
    places = range(1, len(numbers.steps))
    axis.plot(places, numbers.movement, color=BLUE, linewidth=0.6, alpha=0.5, marker=".", markersize=2)
    axis.plot(places, numbers.movement.mean(axis=1), color="black", linewidth=1.4, marker=".", markersize=4)
    # As many as their names have room.
    every = -(-len(places) // 5)
    axis.set_xticks(list(places)[::-1][::every], list(numbers.steps[1:])[::-1][::every])
    axis.set_xlim(0.7, len(places) + 0.3)
    axis.set_ylim(0, 1.08 * max(float(numbers.movement.max()), 1e-3))
    axis.locator_params(axis="y", nbins=4)


def draw_ablation(page: Page, left: float, top: float, numbers: LayerNumbers) -> None:
    """What the accuracy loses without each slot, beside what it loses without the memory of the layer, or any."""
    assert numbers.ablation is not None
    whole = numbers.ablation["accuracy"]
    changes = np.asarray(numbers.ablation["without_slot"]) - whole
    of_layer, of_all = (numbers.ablation[name] - whole for name in ("without_memory_of_layer", "without_memory"))
    title = (
        f"accuracy of {whole:.2f} % without a slot; without this memory {of_layer:+.2f} (dashed), any "
        f"{of_all:+.2f} (dotted)"
    )
    axis = add_plot(page, left, top, title, ("slot taken away", "change (points)"))
    axis.bar(range(len(changes)), changes, width=0.8, color=BLUE)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.axhline(of_layer, color=RED, linewidth=1, linestyle="--")
    axis.axhline(of_all, color=GREY, linewidth=1, linestyle=":")
    mark_slots(axis, len(changes))
    low, high = min(*changes, of_layer, of_all, 0), max(*changes, of_layer, of_all, 0)
    room = max(0.15 * (high - low), 0.1)
    axis.set_ylim(low - room, high + room)
    axis.locator_params(axis="y", nbins=4)


def draw_contacts(page: Page, left: float, top: float, numbers: LayerNumbers) -> None:
    """The patches that retrieve each slot most strongly, with what is around them, in two columns of slots."""
    page.write(left, top, "patches that retrieve a slot most: slot (largest attention)")
    num_rows, block = count_rows(numbers), WIDTH / 2
    axis = page.add_axis(left, top + HEAD, WIDTH, PATCH * num_rows)
    axis.set_axis_off()
    for index, (slot, pictures) in enumerate(zip(numbers.slots, numbers.patches)):
        edge, upper = index // num_rows * block, index % num_rows * PATCH
        name = f"{slot} ({numbers.attention[index, 0]:.2f})"
        axis.text(edge, upper + 0.25 * PATCH, name, fontsize=SMALL, ha="left", va="top")
        start, row = edge + SLOT_LABEL, join_pictures(pictures[:NUM_PATCHES])
        extent = (start, start + PATCH * min(NUM_PATCHES, len(pictures)), upper + PATCH, upper)
        axis.imshow(row, extent=extent, interpolation="nearest", aspect="auto")
    axis.set_xlim(0, WIDTH)
    axis.set_ylim(PATCH * num_rows, 0)


def join_pictures(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures beside each other in one, each in a thin frame: drawn one by one they would take seconds."""
    times = max(1, -(-40 // min(pictures[0].shape[:2])))
    large = [picture.repeat(times, axis=0).repeat(times, axis=1) for picture in pictures]
    # As thick as one dot of the figure, or it would be lost.
    frame, space = (max(1, round(share * min(large[0].shape[:2]))) for share in (0.035, 0.05))
    for width, brightness in ((frame, 0.7), (space, 1.0)):
        edges = [(width, width), (width, width), (0, 0)]
        large = [np.pad(picture, edges, constant_values=brightness) for picture in large]
    return np.concatenate(large, axis=1)


def count_rows(numbers: LayerNumbers) -> int:
    """Rows of the contact sheet."""
    return -(-len(numbers.slots) // 2)


def draw_memory_panels(layer: int, numbers: LayerNumbers, is_wide: bool, starts_line: bool) -> list[Panel]:
    """
    All about the memory of a layer.

    Args:
        layer: Which layer it is.
        numbers: What to draw.
        is_wide: Whether it takes a line of the page, rather than one column.
        starts_line: Whether nothing stands left of it.
    """
    columns = [[(draw_similarity, SQUARE)], [(draw_use, PLOT_HEIGHT)]]
    if numbers.movement is not None:
        columns[-1].append((draw_movement, PLOT_HEIGHT))
    if numbers.ablation is not None:
        columns.append([(draw_ablation, PLOT_HEIGHT)])
    if numbers.slots:
        columns.append([(draw_contacts, PATCH * count_rows(numbers) - BELOW + 0.1)])
    if not is_wide:
        columns = [[part for column in columns for part in column]]
    panels = []
    for index, parts in enumerate(columns):
        title = "" if index else f"Memory of layer {layer}"
        panels.append(stack_parts(title, parts, numbers, starts_line and index == 0))
    return panels


def stack_parts(title: str, parts: Sequence[tuple[Any, float]], numbers: LayerNumbers, starts_line: bool) -> Panel:
    """A panel of parts, each drawn by a function and of a height, from top to bottom."""

    def draw(page: Page, left: float, top: float) -> None:
        for draw_part, height in parts:
            draw_part(page, left, top, numbers)
            top += HEAD + height + BELOW

    return Panel(title, WIDTH, sum(HEAD + height + BELOW for _, height in parts), draw, starts_line)


def cut_patch(image: np.ndarray, patch: int, grid: tuple[int, int]) -> np.ndarray:
    """A patch in its colours, with half a patch of paler surroundings on each side, white beyond the image."""
    height, width = image.shape[0] // grid[0], image.shape[1] // grid[1]
    row, column = divmod(patch, grid[1])
    margins = (height // 2, width // 2)
    padded = np.pad(0.45 * image + 0.55, [(margins[0],) * 2, (margins[1],) * 2, (0, 0)], constant_values=1.0)
    top, left = row * height, column * width
    cut = padded[top : top + height + 2 * margins[0], left : left + width + 2 * margins[1]].copy()
    inside = image[top : top + height, left : left + width]
    cut[margins[0] : margins[0] + height, margins[1] : margins[1] + width] = inside
    return cut
