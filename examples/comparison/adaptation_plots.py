"""The plot of online adaptation: accuracy while the inputs drift, and the memory while blank batches are written."""

from pathlib import Path
from typing import Any

import numpy as np

from examples.comparison.adaptation import CORRUPTIONS, WAYS
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
        for way in WAYS
        if way in models[0]["drift"][corruption]
    }
    first, *others = curves
    length = curves[first].shape[-1]
    x, width = np.linspace(0, 1, length), max(1, length // 8)
    draw_band(top, x, smooth(curves[first], width), first, "black")
    for index, way in enumerate(others):
        draw_band(bottom, x, smooth(curves[way] - curves[first], width), way, f"C{index}")
    top.set_title(corruption)
    bottom.axhline(0, color="black", linewidth=0.8)
    for axis in (top, bottom):
        axis.set_xlabel("severity of the corruption")


def draw_blanks(axes: Any, models: list[dict[str, Any]]) -> None:
    """Draw distance, spread and accuracy by the number of batches written, for each guard."""
    panels = {
        "distance": "distance from the trained memory",
        "spread": "spread of the slots",
        "clean_accuracy": "accuracy on clean images, %",
    }
    guards = sorted(models[0]["blanks"], key=lambda guard: (guard != "images", guard))
    for axis, (name, title) in zip(axes, panels.items()):
        for index, guard in enumerate(guards):
            steps = [row["step"] for row in models[0]["blanks"][guard]["written"]]
            values = np.array([[row[name] for row in model["blanks"][guard]["written"]] for model in models])
            draw_band(axis, steps, values * (100 if name == "clean_accuracy" else 1), guard, f"C{index}")
        axis.set_xscale("symlog", linthresh=1)
        axis.set_title(title)
        axis.set_xlabel("batches written")


def make_figure(results: dict[str, Any]) -> Any:
    """
    Draw the results of `examples.online_adaptation`: accuracy, what writing changes of it, and blank batches.

    It is the same whether the results were just measured or read from their file, which sorts their names.
    """
    pyplot, models = load_pyplot(), results["models"]
    figure = pyplot.figure(figsize=(10.5, 10.5), layout="constrained")
    corruptions = [corruption for corruption in CORRUPTIONS if corruption in models[0]["drift"]]
    parts = figure.subfigures(3, 1, height_ratios=(1, 1.1, 1.1))
    top, bottom = (part.subplots(1, len(corruptions), sharey=True, squeeze=False)[0] for part in parts[:2])
    for above, below, corruption in zip(top, bottom, corruptions):
        draw_drift(above, below, models, corruption)
    top[0].set_ylabel("accuracy, memory read only, %")
    bottom[0].set_ylabel("difference from read only, points")
    blanks = parts[2].subplots(1, 3)
    draw_blanks(blanks, models)
    for part, axis in ((parts[1], bottom[0]), (parts[2], blanks[0])):
        part.legend(*axis.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    number = "of one model" if len(models) == 1 else f"mean of {len(models)} models; shaded: their standard deviation"
    figure.suptitle(
        f"Lines: {number}. Accuracies while inputs drift are averaged over neighbouring batches.", fontsize=10
    )
    return figure


def draw_adaptation(results: dict[str, Any], path: Path) -> None:
    """
    Draw the results of `examples.online_adaptation` as a PNG.

    Args:
        results: The results; each curve is the mean over the models, each band their standard deviation.
        path: File of the results, beside which the plot is written.
    """
    figure = make_figure(results)
    with stage_files(path.parent) as staging:
        figure.savefig(Path(staging, f"{path.stem}.png"), dpi=110)
    load_pyplot().close(figure)
