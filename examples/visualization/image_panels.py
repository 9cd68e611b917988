"""What the figure shows of each image: slots of its patches, energies, the write, the attention of its question."""

from collections.abc import Sequence

import numpy as np

from examples.visualization.page import (
    HEAT,
    LINE,
    NORMAL,
    OTHER_COLOR,
    SLOT_COLORS,
    SMALL,
    Page,
    Panel,
    Scale,
    Sheet,
    paint,
    wrap,
)


LABEL_WIDTH = 1.6
# Largest side of a picture in inches, and the width that the pictures of a panel may take.
LARGEST_CELL, SMALLEST_CELL, WIDEST = 0.66, 0.62, 13.0
LEGEND = "colour: the slot (of many, the 7 most used; o: others); opacity: its attention, up to full"


def choose_cell(picture: np.ndarray, num_columns: int, widest_cell: float = LARGEST_CELL) -> tuple[float, float]:
    """Width and height of a picture in inches, such that all columns fit and the picture keeps its shape."""
    width = float(np.clip(WIDEST / num_columns - Sheet.SPACE, SMALLEST_CELL, widest_cell))
    height, breadth = picture.shape[:2]
    # Neither a flat nor a tall image gets out of hand.
    return width, width * float(np.clip(height / breadth, 0.4, 2.0))


def count_maps(num_layers: int) -> int:
    """How many of the strongest slots of a layer are shown: fewer where there are many layers."""
    return int(np.clip(14 // num_layers, 1, 3))


def find_colors(winners: np.ndarray, num_slots: int) -> dict[int, str]:
    """Give colours to the slots that win most of some patches, (any shape) of slots; the others have none."""
    counts = np.bincount(winners.ravel(), minlength=num_slots)
    most = [int(slot) for slot in np.argsort(-counts, kind="stable") if counts[slot] > 0]
    return dict(zip(most, SLOT_COLORS))


def blend_slots(image: np.ndarray, winners: np.ndarray, strength: np.ndarray, colors: dict[int, str]) -> np.ndarray:
    """
    Lay the colour of each patch's slot over the image in grey.

    Args:
        image: (height, width, 3), from 0 to 1.
        winners: Slot of each patch, (rows, columns).
        strength: How opaque its colour is, (rows, columns), from 0 to 1.
        colors: Colours of the slots that have one of their own.
    """
    from matplotlib.colors import to_rgb

    rgb = np.array([[to_rgb(colors.get(int(slot), OTHER_COLOR)) for slot in row] for row in winners])
    repeats = (-(-image.shape[0] // len(winners)), -(-image.shape[1] // len(winners[0])))

    def enlarge(values: np.ndarray) -> np.ndarray:
        return values.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1)[: image.shape[0], : image.shape[1]]

    brightness = image.mean(axis=-1, keepdims=True)
    opacity = enlarge(strength)[..., None]
    # The image stays visible through its colours: they are a little darker where it is dark.
    return (1 - opacity) * (0.55 + 0.45 * brightness) + opacity * enlarge(rgb) * (0.8 + 0.2 * brightness)


def draw_slot_panel(
    images: Sequence[np.ndarray],
    retrieval: np.ndarray,
    layers: Sequence[int],
    labels: Sequence[Sequence[str]],
    widest_cell: float = LARGEST_CELL,
) -> Panel:
    """
    The images, and beside each, for each layer, which slot every patch retrieves, with a legend below.

    Args:
        images: Pictures (height, width, 3) from 0 to 1.
        retrieval: (num_layers, num_images, rows, columns, num_slots).
        layers: Which layers they are.
        labels: Lines of text beside each image.
        widest_cell: Width that a picture may have, in inches.
    """
    num_layers, num_slots = len(retrieval), retrieval.shape[-1]
    winners, strength = retrieval.argmax(axis=-1), retrieval.max(axis=-1)
    cells = [[image] for image in images]
    heads: list[tuple[int, int, list[str]]] = [(0, 1, ["image"])]
    legends = []
    for layer in range(num_layers):
        colors, largest = find_colors(winners[layer], num_slots), float(strength[layer].max())
        for row, image in zip(range(len(images)), images):
            cells[row].append(blend_slots(image, winners[layer, row], strength[layer, row] / largest, colors))
        heads.append((layer + 1, 1, [f"layer {layers[layer]}", f"full: {largest:.2f}"]))
        legends.append(colors)
    cell = choose_cell(images[0], num_layers + 3, widest_cell)
    sheet = Sheet(cells, cell, labels, LABEL_WIDTH, heads, gaps=(1,))
    panel = sheet.make_panel("Which slot each patch retrieves")
    legend_height = 0.08 + 4 * LINE * SMALL

    def draw(page: Page, left: float, top: float) -> None:
        sheet.draw(page, left, top)
        below = top + panel.height + 0.04
        lines = wrap(LEGEND, LABEL_WIDTH, SMALL, 4)
        page.write(left, below, "\n".join(lines), SMALL)
        for layer, colors in enumerate(legends):
            draw_legend(page, left + sheet.get_left(layer + 1), below, cell[0], colors, winners[layer])

    return Panel(panel.title, panel.width, panel.height + legend_height, draw)


def draw_legend(
    page: Page, left: float, top: float, width: float, colors: dict[int, str], winners: np.ndarray
) -> None:
    """Name the slots of the colours, two in a line."""
    side = 0.7 * LINE * SMALL
    entries = [*((color, str(slot)) for slot, color in colors.items())]
    if set(np.unique(winners)) - set(colors):
        entries.append((OTHER_COLOR, "o"))
    for index, (color, name) in enumerate(entries):
        place = (left + index % 2 * width / 2, top + index // 2 * LINE * SMALL)
        page.fill(place[0], place[1] + 0.15 * side, side, side, color)
        page.write(place[0] + 1.6 * side, place[1], name, SMALL)


def find_strongest_slots(retrieval: np.ndarray, number: int) -> np.ndarray:
    """The slots that an image's patches retrieve most, (..., rows, columns, num_slots) -> (..., number)."""
    totals = retrieval.sum(axis=(-3, -2))
    return np.argsort(-totals, axis=-1, kind="stable")[..., :number]


def draw_heat_panel(
    images: Sequence[np.ndarray], retrieval: np.ndarray, layers: Sequence[int], widest_cell: float = LARGEST_CELL
) -> Panel:
    """Where in the image the strongest slots of each layer are retrieved; arguments as of `draw_slot_panel`."""
    num_layers = len(retrieval)
    number = min(count_maps(num_layers), retrieval.shape[-1])
    strongest = find_strongest_slots(retrieval, number)  # (num_layers, num_images, number)
    cells: list[list[np.ndarray]] = [[image] for image in images]
    captions = [[f"image {row + 1}"] for row in range(len(images))]
    heads: list[tuple[int, int, list[str]]] = []
    scales = []
    for layer in range(num_layers):
        first = 1 + layer * number
        # What is shown, not all there is.
        shown = np.take_along_axis(retrieval[layer], strongest[layer][:, None, None, :], axis=-1)
        for row in range(len(images)):
            for index, slot in enumerate(strongest[layer, row]):
                cells[row].append(paint(shown[row, ..., index], HEAT, 0, shown.max()))
                share = retrieval[layer, row, ..., slot].mean()
                captions[row].append(f"{slot}: {share:.2f}")
        heads.append((first, number, [f"layer {layers[layer]}"]))
        scales.append(Scale(first, number, HEAT, 0, float(shown.max())))
    sheet = Sheet(
        cells,
        choose_cell(images[0], num_layers * number + 1, widest_cell),
        [],
        0,
        heads,
        captions,
        scales,
        gaps=[scale.first_column for scale in scales],
    )
    return sheet.make_panel("Retrieval attention to each image's strongest slots (share of 1; below, slot: mean)")


def draw_energy_panel(
    images: Sequence[np.ndarray], energies: np.ndarray, layers: Sequence[int], widest_cell: float = LARGEST_CELL
) -> Panel:
    """Energy of each patch before and after retrieval, (num_layers, 2, num_images, rows, columns)."""
    cells: list[list[np.ndarray]] = [[image] for image in images]
    heads: list[tuple[int, int, list[str]]] = []
    scales = []
    for layer, of_layer in enumerate(energies):
        for index, name in enumerate(("before", "after")):
            values, column = of_layer[index], 1 + 2 * layer + index
            low, high = float(values.min()), float(values.max())
            for row in range(len(images)):
                cells[row].append(paint(values[row], HEAT, low, high))
            heads.append((column, 1, [f"layer {layers[layer]}", name]))
            scales.append(Scale(column, 1, HEAT, low, high))
    sheet = Sheet(
        cells,
        choose_cell(images[0], 2 * len(energies) + 1, widest_cell),
        [],
        0,
        heads,
        scales=scales,
        gaps=[scale.first_column for scale in scales[::2]],
    )
    return sheet.make_panel("Hopfield energy of each patch (no unit)")


def draw_layer_panel(
    images: Sequence[np.ndarray],
    values: np.ndarray,
    layers: Sequence[int],
    title: str,
    captions: Sequence[Sequence[str]] = (),
    widest_cell: float = LARGEST_CELL,
) -> Panel:
    """One heat map for each layer and image, (num_layers, num_images, rows, columns), from 0 on."""
    cells: list[list[np.ndarray]] = [[image] for image in images]
    heads, scales = [], []
    for layer, of_layer in enumerate(values):
        high = float(of_layer.max())
        for row in range(len(images)):
            cells[row].append(paint(of_layer[row], HEAT, 0, high))
        heads.append((layer + 1, 1, [f"layer {layers[layer]}", ""]))
        scales.append(Scale(layer + 1, 1, HEAT, 0, high))
    below = [["", *line] for line in captions]
    size = choose_cell(images[0], len(values) + 3, widest_cell)
    sheet = Sheet(cells, size, [], 0, heads, below, scales, gaps=(1,))
    return sheet.make_panel(title)


def describe_lines(parts: Sequence[tuple[str, int]]) -> list[str]:
    """Wrap texts into the lines beside an image, each into at most its number of lines."""
    return [line for text, number in parts for line in wrap(text, LABEL_WIDTH - 0.1, NORMAL, number)]
