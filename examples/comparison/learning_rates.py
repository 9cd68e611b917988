"""A learning rate of its own for each model: tried on a held-out part of the training split, and chosen from there."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from examples.comparison.plan import Setting, Variant
from examples.comparison.runs import has_changed
from examples.comparison.statistics import group_runs, name_setting, score
from examples.errors import InputError, read_json


KIND = "learning rates"
SEPARATOR = ", learning rate "
# Accuracies in percent, one for each seed, by setting, model and learning rate.
Scores = dict[str, dict[str, dict[float, list[float]]]]


def try_learning_rates(variants: list[Variant], rates: list[float]) -> list[Variant]:
    """Each model with each learning rate."""
    return [
        Variant(f"{variant.label}{SEPARATOR}{rate!r}", variant.architecture, {**variant.change, "learning_rate": rate})
        for variant in variants
        for rate in rates
    ]


def score_learning_rates(runs: list[dict[str, Any]]) -> Scores:
    """What each learning rate gave, in the order in which they were tried."""
    scores: Scores = {}
    for setting, groups in group_runs(runs).items():
        for label, members in groups.items():
            model, _, rate = label.rpartition(SEPARATOR)
            scores.setdefault(setting, {}).setdefault(model, {})[float(rate)] = [score(run) for run in members]
    return scores


def choose_best(scores: Mapping[float, list[float]]) -> float:
    """The learning rate with the highest mean accuracy; of equal ones the first that was tried."""
    return max(scores, key=lambda rate: statistics.mean(scores[rate]))


def describe_choices(runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table of all choices; one at the end of what was tried is marked, since a better may lie beyond."""
    lines = ["| recipe | model | accuracy by learning rate, % | chosen | |", "|---|---|---|---|---|"]
    for setting, models in score_learning_rates(runs).items():
        for model, by_rate in models.items():
            best = choose_best(by_rate)
            tried = ", ".join(f"{rate!r}: {statistics.mean(accuracies):.2f}" for rate, accuracies in by_rate.items())
            is_at_end = len(by_rate) > 1 and best in (min(by_rate), max(by_rate))
            mark = "at the end of what was tried" if is_at_end else ""
            lines.append(f"| `{setting}` | {model} | {tried} | {best!r} | {mark} |")
    return lines


def read_choices(file: str, settings: Iterable[Setting], variants: list[Variant]) -> dict[tuple[Setting, str], float]:
    """
    The learning rate of each model in each setting, from the results of a call with `--learning_rates`.

    An ablation that was not tried gets that of the AiT.

    Raises:
        InputError: if the file holds something else, was made with a recipe that has changed, or lacks a model.
    """
    results = read_json(Path(file))
    if results.get("kind") != KIND:
        raise InputError(f"There is no choice of learning rates in {file!r}: make one with `--learning_rates`.")
    scores, chosen = score_learning_rates(results["runs"]), {}
    for setting in settings:
        if has_changed(setting.recipe, results):
            raise InputError(f"{file!r} is of {setting.recipe!r} as it was before a change: choose again.")
        models = scores.get(name_setting(setting._asdict()), {})
        for variant in variants:
            by_rate = models.get(variant.label) or models.get(variant.architecture)
            if by_rate is None:
                raise InputError(f"{file!r} has no learning rate of {variant.label!r} for {setting.name!r}.")
            for rate in results["setting"]["learning_rates"]:
                # A mean over fewer seeds than the others' is not comparable.
                if len(by_rate.get(rate, [])) < len(results["seeds"]):
                    raise InputError(
                        f"{file!r} lacks runs of {variant.label!r} with the learning rate {rate!r}: call its command "
                        "again, which goes on."
                    )
            chosen[setting, variant.label] = choose_best(by_rate)
    return chosen
