"""Means, spreads and verdicts, each worked out by hand."""

import math

import pytest
from scipy import stats

from examples.comparison.statistics import describe, find_interval, judge_difference, name_setting, score, summarize


def test_score_is_the_accuracy_in_percent_over_all_or_of_a_group():
    run = {"accuracy": 0.25, "accuracy_by_group": {"relational": 0.75}}
    assert (score(run), score(run, "relational")) == (25.0, 75.0)


def test_spread_is_the_standard_deviation_of_a_sample():
    # Squares of the deviations from 3: 4 + 1 + 1 + 4, over 4 - 1.
    assert describe([1.0, 2.0, 4.0, 5.0]) == f"3.00 ± {math.sqrt(10 / 3):.2f}"
    assert describe([1.5]) == "1.50"


def test_interval_of_the_mean_is_students():
    # Of three values one apart the standard deviation is 1, and of two degrees of freedom the quantile is 4.3027.
    low, high = find_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    assert find_interval([5.0]) == (5.0, 5.0)


def test_difference_has_the_standard_error_of_both_means():
    text, verdict = judge_difference([10.0, 12.0, 14.0], [1.0, 2.0, 3.0])
    # Variances 4 and 1 over three seeds each.
    assert text.startswith(f"+10.00 ± {math.sqrt(5 / 3):.2f} points (p = ")
    assert verdict == "better"
    # Welch's degrees of freedom are 50 / 17, of which Student's 97.5 % quantile is 3.2217.
    half = 3.2217 * math.sqrt(5 / 3)
    assert text.endswith(f", {10 - half:+.2f} to {10 + half:+.2f})")
    assert judge_difference([1.0, 2.0, 3.0], [10.0, 12.0, 14.0])[1] == "worse"


def test_difference_between_five_and_ten_percent_is_not_significant():
    ours, others = [3.0, 4.0, 5.0], [1.0, 2.0, 3.0]
    text, verdict = judge_difference(ours, others)
    p_value = stats.ttest_ind(ours, others, equal_var=False).pvalue
    assert 0.05 < p_value < 0.1
    assert verdict == "not significant"
    assert f"(p = {p_value:.3f}, " in text
    assert judge_difference(others, ours)[1] == "not significant"


def test_difference_between_one_and_five_percent_is_significant():
    ours, others = [4.0, 5.0, 6.0], [1.0, 2.0, 3.0]
    assert 0.01 < stats.ttest_ind(ours, others, equal_var=False).pvalue < 0.05
    assert (judge_difference(ours, others)[1], judge_difference(others, ours)[1]) == ("better", "worse")


def test_difference_of_unequal_spreads_is_judged_by_welch():
    ours, others = [10.0, 10.1, 9.9, 10.0, 10.05, 9.95], [8.0, 12.0, 4.0]
    text, _ = judge_difference(ours, others)
    equal = stats.ttest_ind(ours, others, equal_var=True).pvalue
    welch = stats.ttest_ind(ours, others, equal_var=False).pvalue
    assert f"{equal:.3f}" != f"{welch:.3f}"
    assert f"(p = {welch:.3f}, " in text


@pytest.mark.parametrize(("ours", "others"), [([1.0], [2.0, 3.0]), ([1.0, 2.0], [3.0])])
def test_one_seed_tells_nothing(ours, others):
    assert judge_difference(ours, others) == ("too few seeds to tell", "not judged")


def test_summary_of_each_model_on_each_recipe():
    def make(label, seed, accuracy, **fields):
        return {"recipe": "a.yaml", "label": label, "seed": seed, "accuracy": accuracy, "num_parameters": 7, **fields}

    runs = [make("ait", 0, 0.2), make("vit", 0, 0.9), make("ait", 1, 0.5), make("ait", 2, 0.8, size="small")]
    rows = {(row["recipe"], row["label"]): row for row in summarize(runs)}
    assert rows.keys() == {("a.yaml", "ait"), ("a.yaml", "vit"), ("a.yaml small", "ait")}
    row = rows["a.yaml", "ait"]
    assert row["seeds"] == [0, 1]
    assert row["accuracy_mean"] == pytest.approx(35.0)
    assert row["accuracy_stdev"] == pytest.approx(15 * math.sqrt(2))
    assert (row["accuracy_min"], row["accuracy_max"]) == pytest.approx((20.0, 50.0))
    assert rows["a.yaml", "vit"]["accuracy_stdev"] is None
    assert name_setting(runs[-1]) == "a.yaml small"
