"""
Write `RESULTS.md` and its plots from the JSON files under `examples/results/`.

No number in it is typed by hand, but for those of trials, in `examples/results/tried.md`.

    python -m examples.report
"""

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.errors import InputError, read_json, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from examples.comparison.statistics import Runs

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "examples" / "results"
REPORT = REPOSITORY / "RESULTS.md"
# What was tried where a target was not reached.
TRIED = RESULTS / "tried.md"
# With a field that each has.
KINDS = {
    "benchmark": "shapes",
    "comparison": "runs",
    "evaluation batches": "batch_summary",
    "fine-tuning": "runs",
    "learning rates": "runs",
    "online adaptation": "models",
    "scaling": "measured",
    "training": "accuracy",
}


def read_results() -> dict[str, dict[str, Any]]:
    """
    All results files, by name; each says of what kind it is.

    Raises:
        InputError: for a file that is damaged or of no known kind.
    """
    results = {path: read_json(path) for path in sorted(RESULTS.glob("*.json"))}
    for path, result in results.items():
        if KINDS.get(str(result.get("kind"))) not in result:
            raise InputError(f"{path} is damaged, or of no kind that is reported ({', '.join(KINDS)}): move it away.")
    return {path.stem: result for path, result in results.items()}


def write_other_kinds(results: dict[str, dict[str, Any]]) -> list[str]:
    """Evaluation batches, single trainings, the cost of the workspace at a paper's size, and fine-tuning a ViT."""
    from examples.benchmarking.charts import plan_charts
    from examples.benchmarking.tables import write_benchmark
    from examples.comparison.learning_rates import describe_choices
    from examples.comparison.sections import write_batches, write_origin
    from examples.comparison.statistics import describe

    lines: list[str] = []
    for name, result in results.items():
        if result["kind"] == "evaluation batches":
            lines += ["## Does a prediction depend on its batch?", "", *write_batches(result), *write_origin(result)]
        elif result["kind"] == "learning rates":
            lines += ["## Learning rates", "", "Chosen on a held-out part of the training split.", ""]
            lines += [*describe_choices(result["runs"]), "", *write_origin(result)]
        elif result["kind"] == "training":
            lines += ["## The explicit Accelerate loop", "", f"Handwritten digits: {100 * result['accuracy']:.2f} %."]
            lines += ["", *write_origin(result)]
        elif result["kind"] == "benchmark":
            charts = [f"examples/results/{file}" for file in plan_charts(result, name)]
            official = ", and the official code" if result["setting"].get("official") else ""
            lines += [f"## What the workspace costs{official}", "", *write_benchmark(result, charts)]
            lines += ["", *write_origin(result)]
        elif result["kind"] == "fine-tuning":
            lines += ["## A pretrained ViT with a workspace added", ""]
            for model in ("vit", "ait"):
                values = [100 * run["accuracy"] for key, run in result["runs"].items() if key.startswith(model)]
                lines.append(f"- {model}: {describe(values)} %, {len(values)} seeds")
            lines += ["", *write_origin(result)]
        elif result["kind"] == "scaling":
            lines += ["## What the exchange between processes costs", "", *write_scaling(result, name)]
            lines += ["", *write_origin(result)]
    return lines


def write_scaling(result: dict[str, Any], name: str) -> list[str]:
    """Measured steps on local processes; what is computed for more stands in docs/several_processes.md."""
    lines = ["Median time of a training step, CPU, processes of one machine, each with images of its own:", ""]
    lines += ["| processes | one bottleneck | one for each process |", "|---|---|---|"]
    seconds = {(row["num_processes"], row["synchronize_memory"]): row["step_seconds"] for row in result["measured"]}
    for number in sorted({number for number, _ in seconds}):
        lines.append(f"| {number} | {1000 * seconds[number, True]:.0f} ms | {1000 * seconds[number, False]:.0f} ms |")
    return [*lines, "", f"![Time of a step, and the exchange computed](examples/results/{name}.png)"]


def find_chance(groups: dict[str, "Runs"], title: str) -> float:
    """Accuracy in percent without looking at the image."""
    from examples.data.sort_of_clevr import QUESTION_TYPES

    first = next(iter(groups.values()))[0]
    if "question_only_by_group" in first:
        # As many of each type are asked.
        alone = [value for group, value in first["question_only_by_group"].items() if group in QUESTION_TYPES]
        return 100 * statistics.mean(alone)
    return 50.0 if title.startswith("Triangle") else 10.0


def draw_plots(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """Draw the plot of the headline, one for each file of comparisons, and those of benchmarks, into a folder."""
    from examples.benchmarking.charts import draw_benchmark
    from examples.comparison.headline import HEADLINE, find_headline
    from examples.comparison.plots import draw_accuracies
    from examples.comparison.sections import describe_recipe, iterate_comparisons

    headline = {
        title: ({label: groups[label] for label in HEADLINE if label in groups}, find_chance(groups, title))
        for title, (_, _, groups) in find_headline(results).items()
    }
    by_file: dict[str, dict] = {}
    for name, path, groups in iterate_comparisons(results):
        title, _, _ = describe_recipe(path, groups)
        by_file.setdefault(name, {})[title] = (groups, find_chance(groups, title))
    draw_accuracies(headline, folder / "headline")
    for name, panels in by_file.items():
        draw_accuracies(panels, folder / name)
    for name, result in results.items():
        if result["kind"] == "benchmark":
            draw_benchmark(result, folder, name)


def make_report() -> str:
    """The whole of `RESULTS.md`."""
    from examples.comparison.headline import write_attention_layers, write_headline, write_trained
    from examples.comparison.sections import (
        iterate_comparisons,
        write_choices,
        write_comparison,
        write_origin,
        write_targets,
    )

    results = read_results()
    comparisons = list(iterate_comparisons(results))
    lines = ["# Results", "", "## Trained to the end", "", *write_trained(results)]
    lines += [*TRIED.read_text(encoding="utf-8").splitlines(), ""]
    lines += ["## Does the memory help?", "", "AiT against the same model without its workspace:", ""]
    lines += write_headline(results)
    lines += ["![Accuracy of every run](examples/results/headline.svg)", ""]
    by_layers = write_attention_layers(results)
    if by_layers:
        lines += ["Accuracy against the number of layers that have self-attention:", "", *by_layers]
    lines += [
        "Made by `python -m examples.report` from the JSON files under `examples/results/`, which also hold every "
        "run's own command, losses and evaluations. Do not edit.",
        "",
        "## All models",
        "",
    ]
    for name, path, groups in comparisons:
        lines += write_comparison(path, groups, results[name])
        is_last = path == [recipe for other, recipe, _ in comparisons if other == name][-1]
        if is_last:
            lines += [f"![Accuracy of every run](examples/results/{name}.svg)", "", *write_origin(results[name])]
    lines += ["## Which defaults are right", "", *write_choices(results)]
    lines += write_other_kinds(results)
    lines += ["## Targets", "", *write_targets(results)]
    return "\n".join(lines).rstrip("\n") + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser((), prog="python -m examples.report", description=__doc__)
    parser.parse(sys.argv[1:] if argv is None else argv)
    from examples.training.results import write_text
    from modeling_ait.saving_ait import stage_files

    # All is made before anything is replaced.
    with stage_files(RESULTS) as staging:
        draw_plots(read_results(), Path(staging))
        write_text(REPORT, make_report())
    print(f"Written: {REPORT.name}, and the plots under {RESULTS.relative_to(REPOSITORY).as_posix()}/.")


if __name__ == "__main__":
    run_script(main)
