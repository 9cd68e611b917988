"""Plots of comparisons: accuracy by model, with every run, and the cost beside it."""

import statistics
from pathlib import Path
from typing import Any

from examples.comparison.statistics import Runs, find_interval, score
from examples.sharing import show


# Names as people write them; an ablation keeps its label.
NAMES = {
    "ait": "AiT",
    "ait_no_workspace": "AiT without workspace",
    "ait_no_workspace_wide_mlp": "AiT without workspace,\nwider MLP",
    "vit": "ViT",
    "coordination": "Coordination",
    "set_transformer": "Set Transformer",
    "perceiver": "Perceiver",
    "relation_network": "Relation Network",
}


def name_model(label: str) -> str:
    """The name of a model, or of an ablation of the AiT."""
    return NAMES.get(label, label.replace("ait, ", "AiT, "))


def escape_plot(text: str) -> str:
    """Let matplotlib show a text as it is: a dollar sign starts a formula, and a control character breaks an SVG."""
    return "\n".join(show(line) for line in text.split("\n")).replace("$", r"\$")


def draw_accuracies(panels: dict[str, tuple[dict[str, Runs], float]], path: Path) -> None:
    """
    Draw every run, and the mean of each model with its 95 % interval, one panel for each title, as PNG and SVG.

    Each panel has a scale of its own, around its runs: on one from chance to 100 % the models would look alike.

    Args:
        panels: Runs by label, and the accuracy of chance in percent, by title.
        path: File to write, without its ending.
    """
    pyplot = load_pyplot()
    labels = list(dict.fromkeys(label for groups, _ in panels.values() for label in groups))
    size = (2.8 + 2.8 * len(panels), 1.4 + 0.42 * len(labels))
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, (title, (groups, chance)) in zip(axes[0], panels.items()):
        for row, label in enumerate(labels):
            if label in groups:
                accuracies = [score(run) for run in groups[label]]
                axis.plot(accuracies, [row] * len(accuracies), "o", color="tab:blue", alpha=0.5)
                mean = statistics.mean(accuracies)
                axis.plot(mean, row, "|", color="black", markersize=14, markeredgewidth=2)
                axis.hlines(row, *find_interval(accuracies), color="black", linewidth=1)
        seeds = sorted({len(runs) for runs in groups.values()})
        axis.set_title(
            f"{escape_plot(title)}\n({' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])})", fontsize=9
        )
        axis.set_xlabel(f"test accuracy, % (chance: {chance:.0f})")
        axis.margins(x=0.1)
        # Room for a run that has all of it, and no more: an interval of the mean may reach beyond.
        axis.set_xlim(right=min(axis.get_xlim()[1], 100.5))
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(labels)), [escape_plot(name_model(label)) for label in labels], fontsize=9)
    axes[0][0].set_ylim(len(labels) - 0.5, -0.5)
    # Each panel has the same marks: those of the first row name them.
    handles = axes[0][0].lines[:2]
    names = ["a run", "mean of the runs, with its 95 % interval"]
    figure.legend(handles, names, loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    for ending in ("png", "svg"):
        # Without a date and with fixed identifiers, so that the same results give the same file.
        figure.savefig(path.with_suffix(f".{ending}"), dpi=120, metadata={"Date": None} if ending == "svg" else None)
    pyplot.close(figure)


def load_pyplot() -> Any:
    """Import matplotlib for drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "modeling_ait"
    from matplotlib import pyplot

    return pyplot
