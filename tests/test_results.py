"""Numbers in the README are those of the committed results files."""

import json
import statistics
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[1]
README = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
RESULTS = REPOSITORY / "examples" / "results"


def read(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_digits_accuracy_is_measured():
    runs = [read(f"digits_seed_{seed}.json") for seed in range(5)]
    assert [run["seed"] for run in runs] == list(range(5))
    accuracies = [100 * run["accuracy"] for run in runs]
    assert min(accuracies) >= 97
    assert f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %" in README
    assert f"lowest {min(accuracies):.2f} %" in README
    assert f"{100 * read('digits_accelerate.json')['accuracy']:.2f} %" in README


def test_benchmark_ratios_are_measured():
    results = read("benchmark_small_cpu.json")
    for mode in ("training", "inference"):
        low, high = results[mode]["time_ratio_quartiles"]
        assert f"{results[mode]['time_ratio_median']:.3f} ({low:.3f} to {high:.3f})" in README
        assert f"{results[mode]['memory_ratio']:.3f}" in README


def test_fine_tuning_comparison_is_measured():
    results = read("vit_finetuning.json")
    for name in ("vit", "ait"):
        accuracies = [100 * run["accuracy"] for key, run in results["runs"].items() if key.startswith(name)]
        assert len(accuracies) == 3
        assert f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %" in README


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_say_how_they_were_made(path):
    results = json.loads(path.read_text(encoding="utf-8"))
    setting = results.get("setting", results)
    assert {"command", "hardware", "versions"} <= {**results, **setting}.keys()
    # No path of the machine that made them.
    assert '"/' not in path.read_text(encoding="utf-8")
