"""Contact sheets: some images of a benchmark, with their labels, or questions and answers, in words."""

import textwrap
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from examples.sort_of_clevr import ANSWERS, describe_question


QUESTIONS_PER_IMAGE = 6


def caption(row: dict[str, Any], label_column: str, label_names: list[str]) -> str:
    """What stands below an image: its class, or some of its questions, of all types, with their answers."""
    if "questions" not in row:
        return label_names[row[label_column]]
    chosen = np.linspace(0, len(row["questions"]) - 1, QUESTIONS_PER_IMAGE).round().astype(int)
    lines = [f"{describe_question(row['questions'][index])} {ANSWERS[row['answers'][index]]}" for index in chosen]
    return "\n".join("\n".join(textwrap.wrap(line, 40, subsequent_indent="   ")) for line in lines)


def draw_contact_sheet(
    data: datasets.Dataset, image_column: str, label_column: str, label_names: list[str], title: str, path: Path
) -> None:
    """Draw all images of a (short) data set into a file, in rows of four."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    num_columns = min(4, len(data))
    num_rows = -(-len(data) // num_columns)
    has_questions = "questions" in data.column_names
    figure, axes = pyplot.subplots(
        num_rows,
        num_columns,
        figsize=(3.2 * num_columns, (5.2 if has_questions else 3.2) * num_rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(data) :]:
        axis.axis("off")
    for axis, row in zip(axes.flat, data):
        axis.imshow(row[image_column].convert("RGB"), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(caption(row, label_column, label_names), fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
