"""Means, spreads and differences of accuracies over seeds, in percent."""

import math
import statistics
from typing import Any

from scipy import stats


Runs = list[dict[str, Any]]
NO_VERDICT = "not judged"


def score(run: dict[str, Any], group: str | None = None) -> float:
    """Accuracy of a run in percent, over all samples or a group of questions."""
    return 100 * (run["accuracy"] if group is None else run["accuracy_by_group"][group])


def describe(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def find_interval(values: list[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean, by Student's t; of a single value, that value."""
    mean, number = statistics.mean(values), len(values)
    if number < 2:
        return mean, mean
    half = float(stats.t.ppf(0.975, number - 1)) * statistics.stdev(values) / math.sqrt(number)
    return mean - half, mean + half


def judge_difference(ours: list[float], others: list[float]) -> tuple[str, str]:
    """
    A difference of means with its standard error and, by Welch, its p and 95 % interval, and the verdict on it.

    The verdict is better, worse or not significant, at p < 0.05, which takes a difference of some three to four
    standard errors with three seeds; with a single seed there is none.
    """
    if min(len(ours), len(others)) < 2:
        return "too few seeds to tell", NO_VERDICT
    difference = statistics.mean(ours) - statistics.mean(others)
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in (ours, others)))
    test = stats.ttest_ind(ours, others, equal_var=False)
    low, high = test.confidence_interval(0.95)
    verdict = "not significant"
    if test.pvalue < 0.05:
        verdict = "better" if difference > 0 else "worse"
    return f"{difference:+.2f} ± {error:.2f} points (p = {test.pvalue:.3f}, {low:+.2f} to {high:+.2f})", verdict


def group_runs(runs: Runs) -> dict[str, dict[str, Runs]]:
    """Runs by recipe and label, in the order in which they come."""
    groups: dict[str, dict[str, Runs]] = {}
    for run in runs:
        groups.setdefault(name_setting(run), {}).setdefault(run["label"], []).append(run)
    return groups


def name_setting(run: dict[str, Any]) -> str:
    """The recipe of a run, with the size where the command chose it."""
    return " ".join(part for part in (run["recipe"], run.get("size")) if part)


def summarize(runs: Runs) -> list[dict[str, Any]]:
    """Mean and spread of each model on each recipe."""
    summary = []
    for setting, groups in group_runs(runs).items():
        for label, members in groups.items():
            accuracies = [score(member) for member in members]
            summary.append(
                {
                    "recipe": setting,
                    "label": label,
                    "seeds": [member["seed"] for member in members],
                    "accuracy_mean": statistics.mean(accuracies),
                    "accuracy_stdev": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                    "accuracy_min": min(accuracies),
                    "accuracy_max": max(accuracies),
                    "num_parameters": members[0]["num_parameters"],
                }
            )
    return summary
