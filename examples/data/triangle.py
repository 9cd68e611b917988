"""Triangle: is the triangle whose corners are clusters of dots equilateral? (as Goyal et al., 2022, pose it)"""

from typing import Any

import datasets
import numpy as np

from examples.data.generated import GeneratedBuilder, encode_png


CANVAS_SIZE = 64
DOTS_PER_VERTEX = 8
DOT_RADIUS = 2
LABELS = ("equilateral", "random")
# Range of the longest side in the matched variant, in pixels: from where the corners are told apart to what fits on
# the canvas at every angle.
MATCHED_SIDES = (16.0, 56.0)


def compute_sides(vertices: np.ndarray) -> np.ndarray:
    """Lengths of the sides of triangles, (..., 3, 2) -> (..., 3)."""
    return np.linalg.norm(vertices - np.roll(vertices, 1, axis=-2), axis=-1)


def is_on_canvas(vertices: np.ndarray) -> bool:
    return bool(((vertices >= 1) & (vertices <= CANVAS_SIZE - 1)).all())


def turn_by_60_degrees(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The third vertex of an equilateral triangle, truncated towards zero."""
    dx, dy = second - first
    return np.trunc([first[0] + dx / 2 + 0.866 * dy, first[1] - 0.866 * dx + dy / 2]).astype(np.int64)


def draw_original(label: int, random: np.random.Generator) -> np.ndarray:
    """Draw the vertices (3, 2) as the original does: equilateral triangles are the smaller ones."""
    while True:
        vertices = random.integers(1, CANVAS_SIZE, size=(3, 2))
        if label == 1:
            return vertices
        vertices[2] = turn_by_60_degrees(vertices[0], vertices[1])
        if is_on_canvas(vertices):
            return vertices


def draw_matched(label: int, random: np.random.Generator) -> np.ndarray:
    """Draw the vertices (3, 2) so that the longest side has the same distribution for both labels."""
    longest_side = random.uniform(*MATCHED_SIDES)
    if label == 0:
        angles = random.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
        shape = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    else:
        shape = random.uniform(size=(3, 2))
    vertices = shape * (longest_side / compute_sides(shape).max())
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    position = random.uniform(1 - low, CANVAS_SIZE - 1 - high)
    return np.rint(vertices + position).astype(np.int64)


def paint(vertices: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Paint each vertex as a cluster of white dots on black, (64, 64, 3) of uint8."""
    offsets = random.integers(-1, 2, size=(3, DOTS_PER_VERTEX // 2, 2))
    dots = np.concatenate([vertices[:, None] + offsets, vertices[:, None] - offsets], axis=1).reshape(-1, 2)
    reach = np.arange(-DOT_RADIUS, DOT_RADIUS + 1)
    disc = np.argwhere(reach[:, None] ** 2 + reach**2 <= DOT_RADIUS**2) - DOT_RADIUS
    pixels = (dots[:, None] + disc).reshape(-1, 2)
    x, y = pixels[((pixels >= 0) & (pixels < CANVAS_SIZE)).all(axis=1)].T
    canvas = np.zeros((CANVAS_SIZE, CANVAS_SIZE, 3), dtype=np.uint8)
    canvas[y, x] = 255
    return canvas


def make_example(variant: str, random: np.random.Generator) -> dict[str, Any]:
    """Make one image with its label."""
    label = int(random.integers(0, 2))
    vertices = (draw_original if variant == "original" else draw_matched)(label, random)
    return {"image": encode_png(paint(vertices, random)), "label": label, "vertices": vertices}


class Triangle(GeneratedBuilder):
    """
    Columns: `image`, `label`, `vertices` (3, 2) pixels, (x, y).

    In the variant `original` a threshold on the longest side scores 73.8 %; in `matched` the longest side is uniform
    between 16 and 56 pixels for both labels, so that only the shape tells them apart.
    """

    variants = ("original", "matched")
    default_sizes = (50_000, 10_000)
    description = "Equilateral triangles among random ones, with clusters of dots for corners."
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(LABELS)),
            "vertices": datasets.List(datasets.List(datasets.Value("int32"), length=2)),
        }
    )
    make_example = staticmethod(make_example)
