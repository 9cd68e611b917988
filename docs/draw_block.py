"""
Draw the block of AiT for the README.

    python docs/draw_block.py
"""

from pathlib import Path

import matplotlib


matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "modeling_ait"
from matplotlib import pyplot  # noqa: E402  # the backend comes first


TOKENS, MEMORY = "#dbe9f6", "#fde3c8"


def add_box(axis, x, y, text, color, width=1.9, height=0.7):
    axis.add_patch(
        matplotlib.patches.FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.05",
            facecolor=color,
            edgecolor="black",
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=10)


def add_arrow(axis, start, end, style="-|>", **options):
    axis.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": style, "linewidth": 1.4, **options})


def draw(path):
    """Draw tokens from left to right, the memory below them, as PNG and SVG."""
    figure, axis = pyplot.subplots(figsize=(11, 4.2))
    y, memory_y = 3.0, 0.7
    for x, text in ((0.6, "tokens"), (3.2, "norm,\nself-attention"), (6.6, "norm, MLP,\nnorm"), (13.3, "tokens")):
        add_box(axis, x, y, text, TOKENS, 1.5 if text == "tokens" else 1.9)
    add_box(axis, 8.2, memory_y, "write: slots keep their\n$k$ best tokens of the batch", MEMORY, 3.4, 0.8)
    add_box(axis, 4.0, memory_y, "memory:\n$M$ slots, float32", MEMORY, 2.2, 0.8)
    add_box(axis, 11.2, memory_y + 1.15, "retrieve: one\nHopfield step", MEMORY, 2.0, 0.8)
    for x, label in ((4.9, "+"), (11.2, "+")):
        axis.add_patch(matplotlib.patches.Circle((x, y), 0.22, facecolor="white", edgecolor="black"))
        axis.text(x, y - 0.02, label, ha="center", va="center", fontsize=13)
    add_arrow(axis, (1.45, y), (2.15, y))
    add_arrow(axis, (4.25, y), (4.66, y))
    add_arrow(axis, (5.14, y), (5.55, y))
    add_arrow(axis, (7.65, y), (10.96, y))
    add_arrow(axis, (11.44, y), (12.45, y))
    for start, end in ((1.7, 4.9), (5.35, 11.2)):
        axis.plot([start, start, end], [y, y + 0.9, y + 0.9], color="black", linewidth=1.4)
        add_arrow(axis, (end, y + 0.9), (end, y + 0.24))
    # Tokens go down into the write, and to the retrieval.
    add_arrow(axis, (8.2, y), (8.2, memory_y + 0.47), linestyle="--")
    axis.text(8.05, 1.95, "training only", fontsize=9, style="italic", ha="right")
    axis.plot([9.2, 9.2], [y, memory_y + 1.15], color="black", linewidth=1.4)
    add_arrow(axis, (9.2, memory_y + 1.15), (10.12, memory_y + 1.15))
    add_arrow(axis, (11.2, memory_y + 1.62), (11.2, y - 0.24))
    add_arrow(axis, (6.42, memory_y), (5.2, memory_y), linestyle="--")
    axis.text(5.8, memory_y - 0.42, "moving\naverage", fontsize=9, ha="center", va="top", style="italic")
    axis.plot([4.0, 4.0, 11.2], [memory_y - 0.45, memory_y - 1.25, memory_y - 1.25], color="black", linewidth=1.4)
    add_arrow(axis, (11.2, memory_y - 1.25), (11.2, memory_y + 0.68))
    axis.text(
        9.0, memory_y - 1.15, "read: every token on its own", fontsize=9, ha="center", va="bottom", style="italic"
    )
    axis.set_xlim(-0.4, 14.3)
    axis.set_ylim(-0.9, 4.3)
    axis.set_aspect("equal")
    axis.axis("off")
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).parent / "block")
