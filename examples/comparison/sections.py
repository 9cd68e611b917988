"""Sections of `RESULTS.md`, each from the results files of one kind."""

import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from examples.comparison.costs import describe_cost
from examples.comparison.statistics import Runs, describe, group_runs, judge_difference, score
from examples.data.catalog import BENCHMARKS, Benchmark, find_benchmark
from examples.sharing import escape_markdown, quote_code, show
from examples.training.recipes import read_recipe


REPOSITORY = Path(__file__).parents[2]
GROUP = "relational"
# Its two types. The published AiT and Relation Network were measured on the first alone.
RELATIONAL_TYPES = ("binary", "ternary")
# What was set out to be reached: description, benchmark, variant, group of questions, percent, size of the AiT.
TARGETS: list[tuple[str, str, str | None, str | None, float, str | None]] = [
    ("published, AiT-Small", "cifar10", None, None, 83.3, "small"),
    ("published, AiT-Medium", "cifar10", None, None, 84.6, "medium"),
    ("published, AiT-Base", "cifar10", None, None, 85.4, "base"),
    ("published, AiT-Base", "triangle", "original", None, 99.6, "base"),
    ("published, AiT-Base", "sort_of_clevr", None, "binary", 80.0, "base"),
    ("our own, any recipe", "cifar10", None, None, 94.0, None),
    ("our own, any recipe", "cifar10", None, None, 90.0, None),
    ("our own, any recipe", "cifar10", None, None, 85.5, None),
    ("our own, any recipe", "sort_of_clevr", None, GROUP, 95.0, None),
    ("our own, any recipe", "sort_of_clevr", None, GROUP, 90.0, None),
    ("our own, any recipe", "sort_of_clevr", None, "binary", 99.0, None),
    ("our own, any recipe", "triangle", "matched", None, 99.0, None),
    ("our own, any recipe", "triangle", "original", None, 99.6, None),
]
# Growth in parameters up to which two models count as equally large.
TOLERANCE = 0.01
# Choices of a default, with the label of the run that takes the other side.
CHOICES = {
    "`differentiable_write=True`": {"`False`": "ait, detached write"},
    '`position_embedding_type="learned"`': {'`"none"`': "ait, no positions"},
    '`pooling="mean"`': {'`"flatten"`': "ait, flatten pooling", '`"cls"`': "ait, cls pooling"},
}

Results = dict[str, dict[str, Any]]


def iterate_comparisons(results: Results) -> Iterator[tuple[str, str, dict[str, Runs]]]:
    """Yield (results file, recipe, runs by label) of every comparison."""
    for name, result in results.items():
        if result["kind"] == "comparison":
            for recipe, groups in group_runs(result["runs"]).items():
                yield name, recipe, groups


@cache
def read_setting(setting: str) -> tuple[dict[str, Any], Benchmark | None]:
    """The recipe of a setting, which may name a size behind it, and its benchmark: read and looked up once."""
    recipe = read_recipe(str(REPOSITORY / setting.split(" ")[0]))
    return recipe, find_benchmark(recipe["dataset_name"])


def count_epochs(path: str, groups: dict[str, Runs]) -> float:
    """Epochs of the runs of a recipe: their own, or the recipe's where older code wrote the results."""
    recipe, _ = read_setting(path)
    return next(iter(groups.values()))[0].get("num_epochs", recipe["num_train_epochs"])


def describe_recipe(path: str, groups: dict[str, Runs]) -> tuple[str, Benchmark | None, str | None]:
    """Title, benchmark and variant of the runs of a recipe."""
    _, benchmark = read_setting(path)
    variant = next(iter(groups.values()))[0]["variant"]
    title = Path(path).stem if benchmark is None else benchmark.title
    return escape_markdown(title if variant is None else f"{title}, {variant}"), benchmark, variant


def write_origin(result: dict[str, Any]) -> list[str]:
    """The command, machine and versions behind a section."""
    setting = {**result, **result.get("setting", {})}
    # Each run of a comparison has its own share of the machine.
    machines = dict.fromkeys(run["hardware"] for run in result["runs"]) if result["kind"] == "comparison" else {}
    if machines:
        costs = result.get("cost_hardware", result["hardware"])
        setting["hardware"] = "Each run: " + "; ".join(machines) + f". Costs: {costs}"
    versions = ", ".join(f"{package} {number}" for package, number in setting["versions"].items())
    lines = ["```bash", show(setting["command"]), "```", "", show(f"{setting['hardware']}; {versions}.")]
    if setting.get("note"):
        lines[-1] += " " + show(setting["note"]).replace("<", "\\<")
    return [*lines, ""]


def find_size(path: str, groups: dict[str, Runs]) -> str | None:
    """The size of the paper that these runs are of, chosen by the command or by the recipe, if any."""
    return next(iter(groups.values()))[0].get("size") or read_setting(path)[0].get("size")


def find_start(path: str) -> str | None:
    """The weights that the runs of a recipe go on from, if they do not begin with random ones."""
    return read_setting(path)[0].get("model_name_or_path")


def write_targets(results: dict[str, dict[str, Any]]) -> list[str]:
    """Each target, and the best mean of the AiT on it, of the recipes that were run; ablations do not count."""
    lines = ["| target | on | at least | best of ours | reached |", "|---|---|---|---|---|"]
    for description, name, variant, group, target, size in TARGETS:
        best: tuple[float, str] | None = None
        for _, path, groups in iterate_comparisons(results):
            _, benchmark, recipe_variant = describe_recipe(path, groups)
            if benchmark is not BENCHMARKS[name] or (variant is not None and variant != recipe_variant):
                continue
            if size is not None and find_size(path, groups) != size:
                continue
            if "ait" in groups:
                values = [score(run, group) for run in groups["ait"]]
                seeds = f"{len(values)} seed{'s' * (len(values) > 1)}, `{Path(path).stem}`"
                best = max(best or (-1.0, ""), (statistics.mean(values), f"{describe(values)} ({seeds})"))
        title = BENCHMARKS[name].title + (f", {variant}" if variant else "") + (f", {group}" if group else "")
        found = best[1] if best is not None else "not run" if size is None else "not run at this size"
        reached = "" if best is None else "**yes**" if best[0] >= target else "no"
        lines.append(f"| {description} | {title} | {target:.1f} | {found} | {reached} |")
    return [*lines, ""]


def write_comparison(path: str, groups: dict[str, Runs], result: dict[str, Any]) -> list[str]:
    """One recipe: a table of all models, and the published numbers."""
    title, benchmark, variant = describe_recipe(path, groups)
    costs = result["costs"].get(path, {})
    first = next(iter(groups.values()))[0]
    start = find_start(path)
    origin = "" if start is None else f", from the same weights for all seeds, {quote_code(start)},"
    lines = [f"### {title}: {quote_code(path)}", ""]
    lines += [
        f"{count_epochs(path, groups):g} epoch(s){origin} over "
        f"{first.get('num_train_questions', first['num_train_samples']):,} "
        f"training samples, {first.get('num_eval_questions', first['num_eval_samples']):,} test samples. "
        f"Accuracy in percent: mean ± standard deviation over seeds.",
        "",
        "| model | accuracy | lowest to highest | which seeds | parameters | MFLOPs, training / inference | images/s, "
        "training (time ratio) | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, runs in groups.items():
        values = [score(run) for run in runs]
        cells = [escape_markdown(label), describe(values), f"{min(values):.2f} to {max(values):.2f}"]
        cells += [", ".join(str(run["seed"]) for run in runs), f"{runs[0]['num_parameters']:,}"]
        cells += describe_cost(costs.get(label), missing="not measured")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if file := result.get("setting", {}).get("learning_rates_from"):
        lines += [f"Each model has a learning rate of its own, chosen without test samples in {quote_code(file)}.", ""]
    if benchmark is not None:
        lines += compare_with_published(benchmark, variant, groups)
    if "accuracy_by_group" in first:
        lines += write_groups(groups)
    return lines


def compare_with_published(benchmark: Benchmark, variant: str | None, groups: dict[str, Runs]) -> list[str]:
    """The published numbers, and how far the AiT of a run is from them."""
    # The published numbers of Triangle are those of its original form.
    if not benchmark.published or "ait" not in groups or variant == "matched":
        return []
    published = ", ".join(
        f"{model} {accuracy:.2f}{' (unconfirmed)' if model in benchmark.unconfirmed else ''}"
        for model, accuracy in benchmark.published.items()
    )
    group = RELATIONAL_TYPES[0] if "accuracy_by_group" in groups["ait"][0] else None
    reached = statistics.mean(score(run, group) for run in groups["ait"])
    best = max(accuracy for model, accuracy in benchmark.published.items() if model.startswith("AiT"))
    relation = "falls short of" if reached < best else "is above"
    subject = "This run" if group is None else f"On {group} questions this run"
    # The published AiT saw the original form, which answers about one in a hundred relational questions otherwise.
    other = ", and on another variant of the data" if variant == "fixed" else ""
    return [
        f"Published: {published}. {subject} {relation} the best published AiT by {abs(reached - best):.2f} points; it "
        f"is of another size and another training{other}, so that it neither confirms nor refutes these numbers.",
        "",
    ]


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
    for default, alternatives in CHOICES.items():
        if missing := [alternative for alternative in alternatives if (default, alternative) not in found]:
            lines.append(f"- {default} against {' and '.join(missing)}: not compared at a length that tells.")
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
