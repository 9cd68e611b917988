"""A page that is laid out in inches, so that no label meets another, and the few things that are drawn on it."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.sharing import show


# Uniform to the eye, and the same to the colour-blind.
HEAT, SIMILARITY = "viridis", "cividis"
# Okabe and Ito (2008): told apart with any colour vision. All other slots share a grey.
SLOT_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
OTHER_COLOR, FRAME = "#909090", "#b0b0b0"
SMALL, NORMAL, LARGE = 6, 7.5, 9.5  # points
# Width of a letter and height of a line, in inches for each point, with room to spare.
LETTER, LINE = 0.0082, 0.0172
MARGIN, GAP = 0.25, 0.3
TITLE_LINES, TITLE_HEIGHT, NARROWEST = 3, 0.56, 2.1


def clean(text: str) -> str:
    """Let matplotlib show a text as it is: a dollar sign starts a formula, and a control character breaks an SVG."""
    return "\n".join(show(line) for line in text.split("\n")).replace("$", r"\$")


def wrap(text: str, width: float, size: float, max_lines: int) -> list[str]:
    """Break a text into lines that fit a width in inches; what does not fit into the lines ends with dots."""
    letters = max(4, int(width / (LETTER * size)))
    lines = textwrap.wrap(text, letters) or [""]
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        lines[-1] = lines[-1][: letters - 1].rstrip() + "…"
    return lines


def paint(values: Any, colors: str, low: float, high: float) -> np.ndarray:
    """Turn numbers (rows, columns) into colours (rows, columns, 3) from 0 to 1."""
    import matplotlib

    scaled = (np.asarray(values, dtype=float) - low) / max(high - low, 1e-12)
    return matplotlib.colormaps[colors](np.clip(scaled, 0, 1))[..., :3]


@dataclass(frozen=True)
class Panel:
    """
    A part of the page.

    Args:
        title: What stands above it.
        width: Its width in inches, with all labels.
        height: Its height in inches, with all labels but for the title.
        draw: Draws it, given the page and its left and upper edge in inches.
        starts_line: Whether nothing stands left of it.
    """

    title: str
    width: float
    height: float
    draw: Callable[["Page", float, float], None]
    starts_line: bool = False


class Page:
    """A matplotlib figure with places in inches from its left and upper edge."""

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Any = Figure(figsize=(width, height), facecolor="white")

    def add_axis(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes at a place."""
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axis = self.figure.add_axes(box)
        axis.tick_params(labelsize=SMALL, length=2, pad=1.5)
        return axis

    def write(self, left: float, top: float, text: str, size: float = NORMAL, **options: Any) -> None:
        """Text, whose upper left corner is at a place."""
        options = {"ha": "left", "va": "top", **options}
        place = (left / self.width, 1 - top / self.height)
        self.figure.text(*place, clean(text), fontsize=size, linespacing=1.15, **options)

    def fill(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """A rectangle of a colour."""
        from matplotlib.patches import Rectangle

        place = (left / self.width, 1 - (top + height) / self.height)
        self.figure.add_artist(
            Rectangle(
                place, width / self.width, height / self.height, facecolor=color, transform=self.figure.transFigure
            )
        )


def arrange(panels: Sequence[Panel], title: str, note: str) -> Page:
    """Lay out panels in lines, as words in a text, below a title and a note, and draw them."""
    width = 2 * MARGIN + max(13.75, *(panel.width for panel in panels))
    lines: list[list[Panel]] = [[]]
    for panel in panels:
        used = sum(other.width + GAP for other in lines[-1])
        if lines[-1] and (panel.starts_line or used + panel.width > width - 2 * MARGIN):
            lines.append([])
        lines[-1].append(panel)
    note_lines = wrap(note, width - 2 * MARGIN, NORMAL, 8)
    top = 2 * MARGIN + LINE * 12 + len(note_lines) * LINE * NORMAL
    heights = [TITLE_HEIGHT + max(panel.height for panel in line) + GAP for line in lines]
    page = Page(width, top + sum(heights))
    page.write(MARGIN, MARGIN, "\n".join(wrap(title, width - 2 * MARGIN, 12, 1)), 12, weight="bold")
    page.write(MARGIN, MARGIN + LINE * 14, "\n".join(note_lines), color="#404040")
    for line, height in zip(lines, heights):
        left = MARGIN
        for panel in line:
            titles = wrap(panel.title, panel.width, LARGE, TITLE_LINES)
            page.write(left, top + (TITLE_LINES - len(titles)) * LINE * LARGE, "\n".join(titles), LARGE, weight="bold")
            panel.draw(page, left, top + TITLE_HEIGHT)
            left += panel.width + GAP
        top += height
    return page


@dataclass(frozen=True)
class Scale:
    """What the colours of some columns mean: from `low` to `high`, in the colours of a colour map."""

    first_column: int
    num_columns: int
    colors: str
    low: float
    high: float


@dataclass(frozen=True)
class Sheet:
    """
    Pictures in rows and columns, with room for labels.

    Args:
        cells: Pictures (height, width, 3) with colours from 0 to 1, row by row.
        cell_size: Width and height of a picture in inches.
        row_labels: Lines of text left of each row.
        label_width: Room for them in inches.
        column_labels: First column of each label above, number of columns that it is for, and its lines.
        captions: A line below each picture, or nothing.
        scales: What colours mean, below the columns.
        gaps: Columns before which there is more space.
    """

    cells: Sequence[Sequence[np.ndarray]]
    cell_size: tuple[float, float]
    row_labels: Sequence[Sequence[str]]
    label_width: float
    column_labels: Sequence[tuple[int, int, Sequence[str]]] = ()
    captions: Sequence[Sequence[str]] = ()
    scales: Sequence[Scale] = ()
    gaps: Sequence[int] = ()

    SPACE = 0.06
    GROUP_SPACE = 0.14
    SCALE_HEIGHT = 0.34

    def get_left(self, column: int) -> float:
        """Left edge of a column."""
        gaps = sum(1 for gap in self.gaps if gap <= column)
        return self.label_width + column * (self.cell_size[0] + self.SPACE) + gaps * self.GROUP_SPACE

    @property
    def row_height(self) -> float:
        """From the upper edge of a row to that of the next."""
        text = max((len(lines) for lines in self.row_labels), default=0) * LINE * NORMAL
        caption = LINE * SMALL if self.captions else 0
        return max(self.cell_size[1] + caption, text) + self.SPACE

    @property
    def head_height(self) -> float:
        """Room for the labels of the columns."""
        return max((len(lines) for *_, lines in self.column_labels), default=0) * LINE * NORMAL + 0.04

    def make_panel(self, title: str) -> Panel:
        """The sheet as a part of a page."""
        num_columns = max(len(row) for row in self.cells)
        # The title needs some room too.
        width = max(NARROWEST, self.get_left(num_columns - 1) + self.cell_size[0])
        height = self.head_height + len(self.cells) * self.row_height + (self.SCALE_HEIGHT if self.scales else 0)
        return Panel(title, width, height, self.draw)

    def draw(self, page: Page, left: float, top: float) -> None:
        """Draw it with its upper left corner at a place in inches."""
        width, height = self.cell_size
        for column, num_columns, lines in self.column_labels:
            right = self.get_left(column + num_columns - 1) + width
            middle = left + (self.get_left(column) + right) / 2
            page.write(middle, top, "\n".join(lines), ha="center")
        num_columns = max(len(row) for row in self.cells)
        full = (self.get_left(num_columns - 1) + width, len(self.cells) * self.row_height)
        # One pair of axes for all, in inches: a pair for each would take seconds.
        axis = page.add_axis(left, top + self.head_height, *full)
        axis.set_axis_off()
        for row, pictures in enumerate(self.cells):
            upper = row * self.row_height
            for column, picture in enumerate(pictures):
                edge = self.get_left(column)
                extent = (edge, edge + width, upper + height, upper)
                show_picture(axis, picture, extent)
                if self.captions:
                    place = (edge + width / 2, upper + height + 0.01)
                    axis.text(*place, clean(self.captions[row][column]), fontsize=SMALL, ha="center", va="top")
            lines = self.row_labels[row] if self.row_labels else ()
            page.write(left, top + self.head_height + upper, "\n".join(lines))
        axis.set_xlim(0, full[0])
        axis.set_ylim(full[1], 0)
        below = top + self.head_height + full[1] + 0.04
        for scale in self.scales:
            edge = self.get_left(scale.first_column)
            right = self.get_left(scale.first_column + scale.num_columns - 1) + width
            draw_scale(page, left + edge, below, right - edge, scale)


def show_picture(axis: Any, picture: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """A picture at a place (left, right, lower and upper edge) of axes in inches, in a thin frame."""
    from matplotlib.patches import Rectangle

    axis.imshow(picture, extent=extent, interpolation="nearest", aspect="auto")
    left, right, lower, upper = extent
    size = (right - left, lower - upper)
    axis.add_patch(Rectangle((left, upper), *size, fill=False, edgecolor=FRAME, linewidth=0.4, clip_on=False))


def draw_scale(page: Page, left: float, top: float, width: float, scale: Scale) -> None:
    """A bar of the colours with both ends named."""
    axis = page.add_axis(left, top, width, 0.06)
    axis.imshow(paint([np.linspace(0, 1, 64)], scale.colors, 0, 1), aspect="auto")
    axis.set_axis_off()
    for place, value, side in ((left, scale.low, "left"), (left + width, scale.high, "right")):
        page.write(place, top + 0.07, f"{value:.3g}", SMALL, ha=side)
