"""
Write `RESULTS.md` from the JSON files under `examples/results/`. No number in it is typed by hand.

    python -m examples.report
"""

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy import stats

from examples.compare import describe_cost
from examples.data.catalog import BENCHMARKS, Benchmark, find_benchmark
from examples.training.arguments import read_recipe


REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "examples" / "results"
REPORT = REPOSITORY / "RESULTS.md"
GROUP = "relational"
# What was set out to be reached: description, benchmark, variant, group of questions, percent, size of the AiT.
TARGETS: list[tuple[str, str, str | None, str | None, float, str | None]] = [
    ("published, AiT-Small", "cifar10", None, None, 83.3, "small"),
    ("published, AiT-Medium", "cifar10", None, None, 84.6, "medium"),
    ("published, AiT-Base", "cifar10", None, None, 85.4, "base"),
    ("published, AiT-Base", "triangle", "original", None, 99.6, "base"),
    ("published, AiT-Base", "sort_of_clevr", None, GROUP, 80.0, "base"),
    ("our own, any recipe", "cifar10", None, None, 94.0, None),
    ("our own, any recipe", "sort_of_clevr", None, GROUP, 95.0, None),
    ("our own, any recipe", "triangle", "matched", None, 99.0, None),
]
# Growth in parameters up to which two models count as equally large.
TOLERANCE = 0.01
# Choices of a default, with the label of the run that takes the other side.
CHOICES = {
    "`differentiable_write=True`": {"`False`": "ait, detached write"},
    '`position_embedding_type="learned"`': {'`"none"`': "ait, no positions"},
    '`pooling="mean"`': {'`"flatten"`': "ait, flatten pooling", '`"cls"`': "ait, cls pooling"},
}

Runs = list[dict[str, Any]]


def read_results() -> dict[str, dict[str, Any]]:
    """All results files, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def score(run: dict[str, Any], group: str | None = None) -> float:
    """Accuracy of a run in percent, over all samples or a group of questions."""
    return 100 * (run["accuracy"] if group is None else run["accuracy_by_group"][group])


def describe(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def judge_difference(ours: list[float], others: list[float]) -> tuple[str, str]:
    """
    A difference of means with its standard error and Welch's p, and the verdict: better, worse or not significant.

    The verdict is at p < 0.05. With three seeds that takes a difference of some three to four standard errors.
    """
    if min(len(ours), len(others)) < 2:
        return "too few seeds to tell", "not significant"
    difference = statistics.mean(ours) - statistics.mean(others)
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in (ours, others)))
    p_value = float(stats.ttest_ind(ours, others, equal_var=False).pvalue)
    verdict = "not significant"
    if p_value < 0.05:
        verdict = "better" if difference > 0 else "worse"
    return f"{difference:+.2f} ± {error:.2f} points (p = {p_value:.3f})", verdict


def describe_recipe(path: str, groups: dict[str, Runs]) -> tuple[str, Benchmark | None, str | None]:
    """Title, benchmark and variant of the runs of a recipe."""
    benchmark = find_benchmark(read_recipe(str(REPOSITORY / path))["dataset_name"])
    variant = next(iter(groups.values()))[0]["variant"]
    title = Path(path).stem if benchmark is None else benchmark.title
    return (title if variant is None else f"{title}, {variant}"), benchmark, variant


def get_runs(result: dict[str, Any]) -> Runs:
    """The runs of a comparison; none for a results file of another kind."""
    return result["runs"] if "costs" in result else []


def iterate_comparisons(results: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Runs]]]:
    """Yield (results file, recipe, runs by label) of every comparison."""
    for name, result in results.items():
        for recipe in dict.fromkeys(run["recipe"] for run in get_runs(result)):
            groups: dict[str, Runs] = {}
            for run in result["runs"]:
                if run["recipe"] == recipe:
                    groups.setdefault(run["label"], []).append(run)
            yield name, recipe, groups


def write_origin(result: dict[str, Any]) -> list[str]:
    """The command, machine and versions behind a section."""
    setting = {**result, **result.get("setting", {})}
    # Each run of a comparison has its own share of the machine.
    machines = dict.fromkeys(run["hardware"] for run in get_runs(result))
    if machines:
        setting["hardware"] = "Each run: " + "; ".join(machines) + f". Costs: {result['hardware']}"
    versions = ", ".join(f"{package} {number}" for package, number in setting["versions"].items())
    lines = ["```bash", setting["command"], "```", "", f"{setting['hardware']}; {versions}."]
    if setting.get("note"):
        lines[-1] += f" {setting['note']}"
    return [*lines, ""]


def write_targets(results: dict[str, dict[str, Any]]) -> list[str]:
    """Each target, and the best mean of an AiT on it."""
    lines = ["| target | on | at least | best of ours | reached |", "|---|---|---|---|---|"]
    for description, name, variant, group, target, size in TARGETS:
        best: tuple[float, str] | None = None
        for _, path, groups in iterate_comparisons(results):
            _, benchmark, recipe_variant = describe_recipe(path, groups)
            if benchmark is not BENCHMARKS[name] or (variant is not None and variant != recipe_variant):
                continue
            if size is not None and read_recipe(str(REPOSITORY / path)).get("size") != size:
                continue
            for label, runs in groups.items():
                if label.startswith("ait"):
                    values = [score(run, group) for run in runs]
                    seeds = f"{len(values)} seeds, `{Path(path).stem}`, {label}"
                    best = max(best or (-1.0, ""), (statistics.mean(values), f"{describe(values)} ({seeds})"))
        title = BENCHMARKS[name].title + (f", {variant}" if variant else "") + (f", {group}" if group else "")
        found = best[1] if best is not None else "not run" if size is None else "not run at this size"
        reached = "**yes**" if best is not None and best[0] >= target else "no"
        lines.append(f"| {description} | {title} | {target:.1f} | {found} | {reached} |")
    return [*lines, ""]


def write_comparison(path: str, groups: dict[str, Runs], result: dict[str, Any]) -> list[str]:
    """One recipe: a table of all models, and what it says of the workspace."""
    title, benchmark, variant = describe_recipe(path, groups)
    recipe = read_recipe(str(REPOSITORY / path))
    costs = result["costs"].get(path, {})
    first = next(iter(groups.values()))[0]
    lines = [f"### {title}: `{path}`", ""]
    lines += [
        f"{recipe['num_train_epochs']} epoch(s) over {first.get('num_train_questions', first['num_train_samples']):,} "
        f"training samples, {first.get('num_eval_questions', first['num_eval_samples']):,} test samples. "
        f"Accuracy in percent: mean ± standard deviation over seeds.",
        "",
        "| model | accuracy | lowest to highest | seeds | parameters | MFLOPs, training / inference | images/s, "
        "training (time ratio) | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, runs in groups.items():
        values = [score(run) for run in runs]
        cells = [label, describe(values), f"{min(values):.2f} to {max(values):.2f}"]
        cells += [", ".join(str(run["seed"]) for run in runs), f"{runs[0]['num_parameters']:,}"]
        cells += describe_cost(costs.get(label), missing="not measured")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if "ait" in groups and "ait_no_workspace" in groups:
        ours, others = ([score(run) for run in groups[label]] for label in ("ait", "ait_no_workspace"))
        difference, verdict = judge_difference(ours, others)
        sentence = {
            "better": "The paper's claim that the workspace helps holds here.",
            "worse": "The paper's claim that the workspace helps does not hold here.",
        }.get(verdict, "The paper's claim that the workspace helps is not confirmed here.")
        lines += [f"AiT against the ViT that differs by the workspace alone: {difference}, {verdict}. {sentence}", ""]
    # The published numbers of Triangle are those of its original form.
    if benchmark is not None and benchmark.published and "ait" in groups and variant != "matched":
        published = ", ".join(
            f"{model} {accuracy:.2f}{' (unconfirmed)' if model in benchmark.unconfirmed else ''}"
            for model, accuracy in benchmark.published.items()
        )
        group = GROUP if "accuracy_by_group" in first else None
        reached = statistics.mean(score(run, group) for run in groups["ait"])
        best = max(accuracy for model, accuracy in benchmark.published.items() if model.startswith("AiT"))
        relation = "falls short of" if reached < best else "is above"
        lines += [
            f"Published: {published}. This reduced run {relation} the best published AiT by {abs(reached - best):.2f} "
            "points; it is smaller and trained for less, so that it neither confirms nor refutes these numbers.",
            "",
        ]
    if "accuracy_by_group" in first:
        lines += write_groups(groups)
    return lines


def write_groups(groups: dict[str, Runs]) -> list[str]:
    """Accuracy by type and subtype of question, beside what the question alone gives."""
    first = next(iter(groups.values()))[0]
    lines = [f"| questions | question alone | {' | '.join(groups)} |", "|---" * (2 + len(groups)) + "|"]
    for group in first["accuracy_by_group"]:
        cells = [group, f"{100 * first['question_only_by_group'][group]:.1f}"]
        cells += [describe([score(run, group) for run in runs]) for runs in groups.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def write_choices(results: dict[str, dict[str, Any]]) -> list[str]:
    """Whether the defaults are right: each against its alternatives, on every recipe that ran them."""
    lines = [
        "Recipe, seeds and order of the data are the same. A default changes only if an alternative with no "
        f"more than {100 * TOLERANCE:.0f} % more parameters is better on one recipe and worse on none.",
        "",
        "| default | alternative | recipe | alternative against default | | parameters |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for default, alternatives in CHOICES.items():
        for alternative, label in alternatives.items():
            for _, path, groups in iterate_comparisons(results):
                if "ait" in groups and label in groups:
                    values, base = ([score(run) for run in groups[key]] for key in (label, "ait"))
                    difference, verdict = judge_difference(values, base)
                    growth = groups[label][0]["num_parameters"] / groups["ait"][0]["num_parameters"] - 1
                    found.setdefault((default, alternative), []).append((verdict, growth))
                    cells = [
                        default,
                        alternative,
                        f"`{Path(path).stem}`",
                        difference,
                        verdict,
                        f"{100 * growth:+.1f} %",
                    ]
                    lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for (default, alternative), outcomes in found.items():
        verdicts = [verdict for verdict, _ in outcomes]
        advice = "stays"
        if "better" in verdicts and "worse" not in verdicts:
            is_larger = max(growth for _, growth in outcomes) > TOLERANCE
            advice = "stays, because the alternative is larger" if is_larger else "**should change**"
        lines.append(f"- {default} against {alternative}: {', '.join(verdicts)}; the default {advice}.")
    return [*lines, ""]


def write_batches(result: dict[str, Any]) -> list[str]:
    """Accuracy by batch size, with memories read only and written."""
    lines = [
        "| memory in evaluation | batch size | accuracy | largest range over orders, points | predictions that differ "
        "from those of the first setting, at most |",
        "|---|---|---|---|---|",
    ]
    for row in result["batch_summary"]:
        spread = "" if row["accuracy_stdev"] is None else f" ± {row['accuracy_stdev']:.2f}"
        semantics = "written, as the official code" if row["update_memory"] else "read only, ours"
        lines.append(
            f"| {semantics} | {row['batch_size']} | "
            f"{row['accuracy_mean']:.2f}{spread} | {row['largest_range_over_orders']:.2f} | "
            f"{row['largest_share_changed']:.2f} % |"
        )
    read_only = [row for row in result["batch_summary"] if not row["update_memory"]]
    changed = max(row["largest_share_changed"] for row in read_only)
    sentence = (
        "Read only, no prediction depends on the batch or the order."
        if changed == 0
        else f"Read only, up to {changed:.2f} % of the predictions flip with the batch, by rounding."
    )
    return [*lines, "", f"Over {len(result['checkpoints'])} checkpoints. {sentence}", ""]


def write_earlier(results: dict[str, dict[str, Any]]) -> list[str]:
    """Digits, the cost of the workspace at the paper's Small size, and fine-tuning a ViT."""
    lines: list[str] = []
    digits = [result for name, result in results.items() if name.startswith("digits_seed_")]
    if digits:
        lines += ["## Handwritten digits", ""]
        lines += [
            f"`examples/recipes/digits.yaml`, {digits[0]['num_eval_samples']} held-out images, seeds "
            f"{', '.join(str(run['seed']) for run in digits)}: {describe([score(run) for run in digits])} %.",
            "",
            *write_origin(digits[0]),
        ]
    if cost := results.get("benchmark_small_cpu"):
        lines += ["## Cost of the workspace at the paper's Small size", ""]
        lines += ["| | time AiT / ViT, median (quartiles) | peak memory AiT / ViT |", "|---|---|---|"]
        for mode in ("training", "inference"):
            low, high = cost[mode]["time_ratio_quartiles"]
            lines.append(
                f"| {mode} | {cost[mode]['time_ratio_median']:.3f} ({low:.3f} to {high:.3f}) | "
                f"{cost[mode]['memory_ratio']:.3f} |"
            )
        lines += ["", *write_origin(cost)]
    if tuning := results.get("vit_finetuning"):
        lines += ["## A pretrained ViT with a workspace added", ""]
        for model in ("vit", "ait"):
            values = [100 * run["accuracy"] for key, run in tuning["runs"].items() if key.startswith(model)]
            lines.append(f"- {model}: {describe(values)} %, {len(values)} seeds")
        lines += ["", *write_origin(tuning)]
    return lines


def make_report() -> str:
    """The whole of `RESULTS.md`."""
    results = read_results()
    lines = [
        "# Results",
        "",
        "Made by `python -m examples.report` from the JSON files under `examples/results/`, which also hold every "
        "run's own command, losses and evaluations. Do not edit.",
        "",
        "## Targets",
        "",
        *write_targets(results),
    ]
    comparisons = list(iterate_comparisons(results))
    if not any("size" in read_recipe(str(REPOSITORY / path)) for _, path, _ in comparisons):
        lines += [
            "No run is at a size of the paper: those recipes (`examples/recipes/*_{small,medium,base}.yaml`) need "
            "a GPU. The recipes `*_cpu.yaml` are small, and trained briefly.",
            "",
        ]
    lines += ["## Comparisons", ""]
    for name, path, groups in comparisons:
        lines += write_comparison(path, groups, results[name])
        is_last = path == [recipe for other, recipe, _ in comparisons if other == name][-1]
        if is_last:
            plot = RESULTS / f"{name}.png"
            if plot.exists():
                lines += [f"![Accuracy of every run]({plot.relative_to(REPOSITORY).as_posix()})", ""]
            lines += write_origin(results[name])
    lines += ["## Which defaults are right", "", *write_choices(results)]
    for result in results.values():
        if "batch_summary" in result:
            lines += ["## Does a prediction depend on its batch?", "", *write_batches(result), *write_origin(result)]
    lines += write_earlier(results)
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    REPORT.write_text(make_report(), encoding="utf-8")
    print(f"Written: {REPORT.name}")


if __name__ == "__main__":
    main()
