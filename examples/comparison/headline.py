"""What `RESULTS.md` begins with: what was trained to the end, and whether the memory helps."""

from itertools import chain
from pathlib import Path

from examples.comparison.ablations import ATTENTION_LAYERS, label_ablation
from examples.comparison.costs import describe_cost
from examples.comparison.plan import make_config, merge_model_config
from examples.comparison.plots import name_model
from examples.comparison.sections import (
    GROUP,
    RELATIONAL_TYPES,
    Results,
    count_epochs,
    describe_recipe,
    find_size,
    find_start,
    iterate_comparisons,
    read_setting,
)
from examples.comparison.statistics import NO_VERDICT, Runs, describe, judge_difference, score


# From this many epochs on a training counts as one to the end; the shorter ones compare models early.
EPOCHS_TO_THE_END = 40
# So many seeds make a comparison that a longer one with fewer does not take the place of.
ENOUGH_SEEDS = 3
# What the AiT is compared with: the same without its workspace, that with as many parameters, and what else was run.
WITHOUT = ("ait_no_workspace", "ait_no_workspace_wide_mlp")
OTHERS = (
    "ait, fixed memory",
    "ait, detached write",
    "vit",
    "coordination",
    "set_transformer",
    "perceiver",
    "relation_network",
)
HEADLINE = ("ait", *WITHOUT, *OTHERS)
# By the layers that have self-attention: the AiT, and the same without its workspace.
FEWER_ATTENTION_LAYERS = {
    number: (label_ablation(name), label_ablation(f"{name}_without_memory"))
    for number, name in zip(("none", "one", "two"), ATTENTION_LAYERS, strict=True)
}


def name_in_line(label: str) -> str:
    """The name of a model without line breaks."""
    return name_model(label).replace("\n", " ")


def find_headline(results: Results) -> dict[str, tuple[str, str, dict[str, Runs]]]:
    """
    By title of the data, the comparison with and without the workspace that has most seeds, then most epochs.

    Shorter ones of as many seeds stand beside it for the models that they alone have, with their epochs in the title.
    """
    candidates: dict[str, list[tuple[int, float, str, str, dict[str, Runs]]]] = {}
    for name, path, groups in iterate_comparisons(results):
        if {"ait", "ait_no_workspace"} <= groups.keys():
            title, _, _ = describe_recipe(path, groups)
            num_seeds = min(len(groups["ait"]), len(groups["ait_no_workspace"]), ENOUGH_SEEDS)
            candidates.setdefault(title, []).append((num_seeds, count_epochs(path, groups), name, path, groups))
    found: dict[str, tuple[str, str, dict[str, Runs]]] = {}
    for title, of_data in candidates.items():
        of_data.sort(key=lambda one: one[:2], reverse=True)
        taken, labels = [], set[str]()
        for num_seeds, num_epochs, name, path, groups in of_data:
            if num_seeds == of_data[0][0] and (groups.keys() & set(HEADLINE)) - labels:
                taken.append((f"{title}, {num_epochs:g} epochs", name, path, groups))
                labels |= groups.keys()
        for longer_title, name, path, groups in taken:
            key = longer_title if len(taken) > 1 else title
            found[f"{key} ({name}, {Path(path).stem})" if key in found else key] = name, path, groups
    return found


def write_verdict(title: str, groups: dict[str, Runs], other: str) -> tuple[str, str]:
    """A line on the difference of the AiT from another model, and its verdict alone."""
    ours, others = ([score(run) for run in groups[label]] for label in ("ait", other))
    difference, verdict = judge_difference(ours, others)
    against = name_in_line(other).replace("AiT", "the same")
    return f"- {title}: AiT against {against}: {difference}, {verdict}.", verdict


def write_headline(results: Results) -> list[str]:
    """AiT against the same without its workspace, at fewer and at equal parameters, and others; each verdict once."""
    lines = [
        "| data | epochs | model | accuracy, % | seeds | parameters | MFLOPs, training / inference | time of "
        "a training step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    verdicts, sizes = [], []
    about_workspace = []
    for title, (name, path, groups) in find_headline(results).items():
        costs, (data, _, _) = results[name]["costs"].get(path, {}), describe_recipe(path, groups)
        for label in HEADLINE:
            if label in groups:
                values, cost = [score(run) for run in groups[label]], costs.get(label)
                sizes.append(groups[label][0]["num_parameters"])
                cells = [data, f"{count_epochs(path, groups):g}", name_in_line(label), describe(values)]
                cells += [str(len(values)), f"{sizes[-1]:,}", describe_cost(cost, missing="not measured")[0]]
                cells.append("not measured" if cost is None else f"{cost['training_time_ratio']:.2f}")
                lines.append(f"| {' | '.join(cells)} |")
        for other in HEADLINE[1:]:
            if other in groups:
                line, verdict = write_verdict(title, groups, other)
                verdicts.append(line)
                if other in WITHOUT and verdict != NO_VERDICT:
                    about_workspace.append(line)
    lines += [
        "",
        "Accuracy: mean ± standard deviation over seeds. Time: the AiT is 1.00. Differences: ± their standard error, "
        "with p and the 95 % interval (Welch); verdicts are at p < 0.05.",
    ]
    lines += ["", *verdicts, "", sum_up(about_workspace), ""]
    if sizes:
        lines.append(
            f"These models have {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} million parameters and were trained "
            "for as many epochs as the table says: they neither confirm nor refute the published tables."
        )
    return [*lines, ""]


def write_trained(results: Results) -> list[str]:
    """The models trained to the end, beside the best published number, with verdicts that the headline has not."""
    verdicts: list[str] = []
    headline = {(name, path) for name, path, _ in find_headline(results).values()}
    lines = [
        "| data | recipe | model | accuracy, % | seeds | parameters | epochs | best published |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, path, groups in iterate_comparisons(results):
        num_epochs = count_epochs(path, groups)
        is_continued = find_start(path) is not None
        if num_epochs < EPOCHS_TO_THE_END and not is_continued:
            continue
        title, benchmark, variant = describe_recipe(path, groups)
        published = {} if benchmark is None or variant == "matched" else benchmark.published
        model = max(published, key=published.__getitem__, default=None)
        for label, runs in groups.items():
            accuracy = describe([score(run) for run in runs])
            for group in (GROUP, *RELATIONAL_TYPES) if "accuracy_by_group" in runs[0] else ():
                accuracy += f"; {group} {describe([score(run, group) for run in runs])}"
            cells = [title, f"`{Path(path).stem}`", name_in_line(label), accuracy, str(len(runs))]
            cells += [f"{runs[0]['num_parameters']:,}", f"{num_epochs:g}{' more' if is_continued else ''}"]
            cells.append("" if model is None else f"{published[model]:.2f} ({model})")
            lines.append(f"| {' | '.join(cells)} |")
        if "ait" in groups and (name, path) not in headline:
            more = f"{title}, {num_epochs:g} epochs"
            verdicts += [write_verdict(more, groups, other)[0] for other in WITHOUT if other in groups]
    return [*lines, "", *verdicts, *[""] * bool(verdicts)]


def write_attention_layers(results: Results) -> list[str]:
    """Accuracy by the number of layers with self-attention, with and without the workspace, where it was measured."""
    lines = [
        "| data | epochs | layers with attention | AiT | seeds | AiT without workspace | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, path, groups in iterate_comparisons(results):
        if groups.keys().isdisjoint(chain(*FEWER_ATTENTION_LAYERS.values())):
            continue
        title, _, _ = describe_recipe(path, groups)
        model_config = merge_model_config(read_setting(path)[0], {})
        depth = make_config(find_size(path, groups), model_config).num_hidden_layers
        for number, labels in {**FEWER_ATTENTION_LAYERS, f"all {depth}": ("ait", "ait_no_workspace")}.items():
            if any(label in groups for label in labels):
                cells = [title, f"{count_epochs(path, groups):g}", number]
                for label in labels:
                    values = [score(run) for run in groups.get(label, [])]
                    cells += [describe(values) if values else "not run", str(len(values))]
                lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""] if len(lines) > 2 else []


def sum_up(verdicts: list[str]) -> str:
    """What the verdicts say together of the paper's claim that the workspace helps."""
    if not verdicts:
        return "Too few seeds have been run to say whether the workspace makes a difference."
    better, worse = (sum(verdict.endswith(f", {word}.") for verdict in verdicts) for word in ("better", "worse"))
    if better == worse == 0:
        return (
            "In none of these comparisons does the workspace make a significant difference. That is not equality: "
            "differences within the intervals are not excluded."
        )
    return f"The workspace is significantly better in {better} and worse in {worse} of {len(verdicts)} comparisons."
