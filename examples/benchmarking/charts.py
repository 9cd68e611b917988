"""Charts of the benchmark: cost by shape, the write by number of tokens, memory by batch size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmarking.shapes import REFERENCE
from examples.comparison.plots import escape_plot, load_pyplot, name_model


MODES = ("training", "inference")
MEASURES = {
    "time_ratio": f"time / {REFERENCE}",
    "memory_ratio": f"peak memory / {REFERENCE}",
    "kept_memory_ratio": f"kept for backward / {REFERENCE}",
}


def list_panels(shapes: dict[str, Any]) -> list[tuple[str, str]]:
    """Modes and measures that any shape has."""
    panels = [(mode, measure) for measure in MEASURES for mode in MODES]
    costs = [(mode, cost) for shape in shapes.values() for mode in MODES for cost in shape.get(mode, {}).values()]
    return [panel for panel in panels if any(mode == panel[0] and panel[1] in cost for mode, cost in costs)]


def draw_shapes(shapes: dict[str, Any], path: Path) -> None:
    """Draw time and memory of each model over the ViT's, a panel for each mode and measure, as PNG."""
    pyplot = load_pyplot()
    panels = list_panels(shapes)
    models = list(dict.fromkeys(model for shape in shapes.values() for model in shape["num_parameters"]))
    models = [model for model in models if model != REFERENCE]
    size = (1.5 + 2.4 * len(panels), 1.3 + 0.35 * len(shapes) * max(1, len(models)))
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout="constrained")
    height = 0.8 / max(1, len(models))
    for axis, (mode, measure) in zip(axes[0], panels):
        for number, model in enumerate(models):
            costs = [shape.get(mode, {}).get(model, {}) for shape in shapes.values()]
            rows = [row + number * height for row, cost in enumerate(costs) if measure in cost]
            values = [cost[measure] for cost in costs if measure in cost]
            bars = axis.barh(rows, values, height, color=f"C{number}", label=escape_plot(name_model(model)))
            axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
        axis.axvline(1, color="grey", linestyle="--", linewidth=1, label=name_model(REFERENCE))
        axis.set_title(f"{mode}\n{MEASURES[measure]}", fontsize=9)
        axis.margins(x=0.2)
    middle = height * (len(models) - 1) / 2
    axes[0][0].set_yticks([row + middle for row in range(len(shapes))], [escape_plot(name) for name in shapes])
    axes[0][0].invert_yaxis()
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower right", fontsize=8, ncols=4, frameon=False
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_write(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the time of the write per token, with quartiles, and the memory that it keeps, by number of tokens."""
    pyplot = load_pyplot()
    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    tokens = [row["num_tokens"] for row in rows]
    quartiles = zip(*(row["microseconds_per_token_quartiles"] for row in rows))
    time_axis.fill_between(tokens, *quartiles, alpha=0.2, label="quartiles")
    time_axis.plot(tokens, [row["microseconds_per_token"] for row in rows], "o-", label="median")
    time_axis.set_ylabel("microseconds per token")
    time_axis.legend(fontsize=8, frameon=False)
    memory_axis.plot(tokens, [row["kept_memory_mib"] for row in rows], "o-")
    memory_axis.set_ylabel("kept for backward, MiB")
    for axis in (time_axis, memory_axis):
        axis.set_xscale("log", base=2)
        axis.set_xticks(tokens, [f"{number:,}" for number in tokens], rotation=30, fontsize=8)
        axis.set_xlabel("tokens in the batch")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.suptitle(f"The write of one layer, width {rows[0]['width']}, forward and backward", fontsize=10)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_batch_sizes(batch_sizes: dict[str, Any], path: Path) -> None:
    """Draw peak memory and images per second by batch size, a line for each model and mode."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for model, modes in batch_sizes.items():
        for mode, found in modes.items():
            sizes = [row["batch_size"] for row in found["rows"]]
            for axis, measure in zip(axes, ("peak_memory_mib", "images_per_second")):
                values = [row[measure] for row in found["rows"]]
                axis.plot(sizes, values, "o-", label=escape_plot(f"{name_model(model)}, {mode}"))
    for axis, title in zip(axes, ("peak memory, MiB", "images per second")):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("images in the batch")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plan_charts(results: dict[str, Any], name: str) -> dict[str, tuple[Callable[[Any, Path], None], Any]]:
    """
    The charts of a file of results: by their file names, what draws each, and from what.

    Args:
        results: Content of the file.
        name: Name of the file, without its ending, with which theirs begin.
    """
    suite = results.get("suite") or {}
    ratios = {
        f"{shape}, {variant}": costs
        for variant, shapes in suite.get("ratios", {}).items()
        for shape, costs in shapes.items()
    }
    charts: dict[str, tuple[Callable[[Any, Path], None], Any]] = {
        f"{name}.png": (draw_shapes, results["shapes"] or ratios),
        f"{name}_write.png": (draw_write, results["write"]),
        f"{name}_batch_sizes.png": (draw_batch_sizes, suite.get("batch_sizes")),
    }
    return {file: (draw, content) for file, (draw, content) in charts.items() if content}


def draw_benchmark(results: dict[str, Any], folder: Path, name: str) -> None:
    """Draw all charts of a file of results into a folder."""
    for file, (draw, content) in plan_charts(results, name).items():
        draw(content, folder / file)
