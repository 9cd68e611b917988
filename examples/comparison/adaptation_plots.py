"""The plot of online adaptation: accuracy while the inputs drift, and the memory while blank batches are written."""

from pathlib import Path
from typing import Any

import numpy as np

from examples.comparison.plots import load_pyplot
from modeling_ait.saving_ait import stage_files


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over neighbouring batches, fewer of them at the ends, (num_models, T) -> (num_models, T)."""
    ones = np.ones(width)
    weights = np.convolve(np.ones(values.shape[-1]), ones, mode="same")
    return np.stack([np.convolve(row, ones, mode="same") / weights for row in values])


def draw_band(axis: Any, x: Any, values: np.ndarray, label: str, color: str) -> None:
    """Draw the mean over models as a line, and their standard deviation as a band."""
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
    axis.plot(x, mean, label=label, color=color, linewidth=1.4)
    axis.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)


def draw_drift(top: Any, bottom: Any, models: list[dict[str, Any]], corruption: str) -> None:
    """Draw the accuracy of the first way above, and what the others differ from it below."""
    curves = {
        way: 100 * np.array([model["drift"][corruption][way]["accuracies"] for model in models])
        for way in models[0]["drift"][corruption]
    }
    first, *others = curves
    length = curves[first].shape[-1]
    x, width = np.linspace(0, 1, length), max(1, length // 8)
    draw_band(top, x, smooth(curves[first], width), first, "black")
    for index, way in enumerate(others):
        draw_band(bottom, x, smooth(curves[way] - curves[first], width), way, f"C{index}")
    top.set_title(corruption)
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_xlabel("severity")


def draw_blanks(axes: Any, models: list[dict[str, Any]]) -> None:
    """Draw distance, spread and accuracy by the number of batches written, for each guard."""
    panels = {
        "distance": "distance from the trained memory",
        "spread": "spread of the slots",
        "clean_accuracy": "accuracy on clean images, %",
    }
    for axis, (name, title) in zip(axes, panels.items()):
        for index, guard in enumerate(models[0]["blanks"]):
            steps = [row["step"] for row in models[0]["blanks"][guard]["written"]]
            values = np.array([[row[name] for row in model["blanks"][guard]["written"]] for model in models])
            draw_band(axis, steps, values * (100 if name == "clean_accuracy" else 1), guard, f"C{index}")
        axis.set_xscale("symlog", linthresh=1)
        axis.set_title(title)
        axis.set_xlabel("batches written")


def draw_adaptation(results: dict[str, Any], path: Path) -> None:
    """
    Draw the results of `examples.online_adaptation` as PNG and SVG.

    Args:
        results: The results; each curve is the mean over the models, each band their standard deviation.
        path: File of the results, beside which the plots are written.
    """
    pyplot = load_pyplot()
    models = results["models"]
    figure, axes = pyplot.subplots(3, 3, figsize=(10.5, 8), layout="constrained")
    for column, corruption in enumerate(models[0]["drift"]):
        draw_drift(axes[0][column], axes[1][column], models, corruption)
        for row in (0, 1):
            axes[row][column].sharey(axes[row][0])
    axes[0][0].set_ylabel("accuracy, memory read only, %")
    axes[1][0].set_ylabel("difference from read only, points")
    axes[1][0].legend(fontsize=7)
    draw_blanks(axes[2], models)
    axes[2][1].legend(fontsize=7, loc="lower left")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    with stage_files(path.parent) as staging:
        figure.savefig(Path(staging, f"{path.stem}.png"), dpi=110)
    pyplot.close(figure)
