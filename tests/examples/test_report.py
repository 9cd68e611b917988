"""Numbers in the README are those of the committed results files."""

import json
import shutil
import statistics
from pathlib import Path

import pytest

from examples import report
from examples.baselines.catalog import ARCHITECTURES
from examples.comparison.headline import HEADLINE
from examples.data.catalog import BENCHMARKS
from examples.errors import InputError


REPOSITORY = Path(__file__).parents[2]
README = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
RESULTS = REPOSITORY / "examples" / "results"


SHAPES_OF_THE_README = {
    "width_64": "width 64, 2 layers, patch 8, memory of the `_cpu` recipes, batch 128",
    "width_64_wide_memory": "width 64, 2 layers, patch 8, batch 128",
    "width_128": "width 128, 2 layers, patch 4, batch 128",
    "width_192": "width 192, 12 layers, patch 4, batch 32",
    "width_192_224px": "width 192, 12 layers, 224 pixels, patch 16, batch 16",
    "small": "AiT-Small, patch 4, batch 128",
}


def read(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_digits_accuracy_is_measured():
    runs = [run for run in read("digits.json")["runs"] if run["label"] == "ait"]
    assert [run["seed"] for run in runs] == list(range(5))
    accuracies = [100 * run["accuracy"] for run in runs]
    assert min(accuracies) >= 97
    assert f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %" in README
    assert f"lowest {min(accuracies):.2f} %" in README
    assert f"{100 * read('digits_accelerate.json')['accuracy']:.2f} %" in README


def test_costs_of_the_readme_are_measured():
    results = read("benchmark_cpu.json")
    for shape, title in SHAPES_OF_THE_README.items():
        cells = [f"{results['shapes'][shape][mode]['ait']['time_ratio']:.2f}" for mode in ("training", "inference")]
        assert f"| {title} | {cells[0]} | {cells[1]} |" in README
    for row in results["write"]:
        cells = f"{row['num_tokens']:,} | {row['microseconds_per_token']:.2f} | {row['kept_memory_mib']:.1f}"
        assert f"| {cells} |" in README


def test_readme_says_what_was_measured_against_the_official_code():
    shapes = read("benchmark_official.json")["shapes"]
    assert set(shapes) < set(SHAPES_OF_THE_README) and len(shapes) == 5
    for mode in ("training", "inference"):
        ratios = [shape[mode]["ait"]["time_ratio_to_official"] for shape in shapes.values()]
        assert f"{mode} {min(ratios):.2f} to {max(ratios):.2f}" in " ".join(README.split())
        assert shapes["small"][mode]["ait"]["time_ratio_to_official"] == max(ratios)


def test_report_has_a_row_for_each_model_of_a_benchmark_but_the_vit(write_results):
    cost = {"time_ratio": 1.5, "time_ratio_quartiles": [1.25, 1.75], "tokens_per_second": 1234.5}
    cost |= {"memory_ratio": 1.125, "kept_memory_ratio": 1.375}
    modes = {mode: {"ait": cost, "vit": cost} for mode in ("training", "inference")}
    del modes["inference"]["ait"]["kept_memory_ratio"]
    shapes = {"width_64": {"num_parameters": {"ait": 3, "vit": 2}, **modes}}
    write = {"width": 8, "num_tokens": 4096, "microseconds_per_token": 2.5, "kept_memory_mib": 5.25}
    write["microseconds_per_token_quartiles"] = [2.0, 3.0]
    setting = {"clock": "cpu", "device": "cpu"}
    text = write_results([], "benchmark", shapes=shapes, write=[write], setting=setting)
    assert "| width_64 | ait | inference | 1.50 (1.25 to 1.75) | 1,234 | 1.12 |  |" in text
    assert "| width_64 | vit |" not in text
    assert "| 4,096 | 2.50 (2.00 to 3.00) | 5.2 |" in text
    assert "Not run on a GPU." in text
    assert "![Chart of the benchmark](examples/results/made.png)" in text


def test_fine_tuning_comparison_is_measured():
    results = read("vit_finetuning.json")
    for name in ("vit", "ait"):
        accuracies = [100 * run["accuracy"] for key, run in results["runs"].items() if key.startswith(name)]
        assert len(accuracies) == 3
        assert f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %" in README


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_have_one_head(path):
    results = json.loads(path.read_text(encoding="utf-8"))
    assert {"kind", "command", "hardware", "versions", "seeds"} <= results.keys()
    assert results["kind"] in report.KINDS
    assert results["command"].startswith("python -m examples.")
    # No path of the machine that made them.
    assert '"/' not in path.read_text(encoding="utf-8")
    if "data/cifar10" in results["command"]:
        assert "CIFAR-10 as parquet" in (results.get("note") or results["setting"].get("note") or "")


def test_report_is_what_the_results_files_say():
    text = report.make_report()
    assert (REPOSITORY / "RESULTS.md").read_text(encoding="utf-8") == text
    assert (report.RESULTS / "headline.svg").exists()


COST = {
    "training_forward_flops": 2e6,
    "inference_flops": 1e6,
    "training_images_per_second": 100.0,
    "training_peak_memory_mib": 10.0,
}
VARIANTS = {"triangle_matched_cpu": "matched", "triangle_cpu": "original", "sort_of_clevr_cpu": "fixed"}
VARIANTS |= {"sort_of_clevr_full_cpu": "fixed", "triangle_matched_strong": "matched", "triangle": "original"}
VARIANTS |= {"sort_of_clevr_redrawn_cpu": "fixed", "cifar10_continued_cpu": None}


def make_runs(label, accuracies, recipe="examples/recipes/triangle_matched_cpu.yaml"):
    return [
        {
            "recipe": recipe,
            "variant": VARIANTS[Path(recipe).stem],
            "label": label,
            "seed": seed,
            "hardware": "a machine",
            "accuracy": accuracy,
            "num_parameters": 1234,
            "num_train_samples": 10,
            "num_eval_samples": 20,
        }
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.fixture
def write_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)

    def write(runs, kind="comparison", **fields):
        result = {
            "kind": kind,
            "command": "python -m x",
            "hardware": "a machine",
            "versions": {"torch": "1"},
            "costs": {},
        }
        (tmp_path / "made.json").write_text(json.dumps({**result, "costs": {}, "runs": runs, **fields}))
        return report.make_report()

    return write


def test_report_says_whether_a_target_is_reached(write_results):
    row = "| our own, any recipe | Triangle, matched | 99.0 | {} (3 seeds, `triangle_matched_cpu`) | {} |"
    assert row.format("98.00 ± 1.00", "no") in write_results(make_runs("ait", [0.97, 0.98, 0.99]))
    assert row.format("99.30 ± 0.10", "**yes**") in write_results(make_runs("ait", [0.992, 0.993, 0.994]))
    # The wrong variant, and a baseline, do not count.
    other = make_runs("ait", [0.999] * 3, "examples/recipes/triangle_cpu.yaml")
    assert "| Triangle, matched | 99.0 | not run |  |" in write_results(other)
    assert "| Triangle, matched | 99.0 | not run |  |" in write_results(make_runs("ait_no_workspace", [0.999] * 3))
    # Nor does a small model count for a published size.
    assert "| Triangle, original | 99.6 | not run at this size |  |" in write_results(other)


@pytest.mark.parametrize(
    ("ours", "verdict", "sum_up"),
    [
        (
            [0.95, 0.96, 0.97],
            "+6.00 ± 0.82 points (p = 0.002, +3.73 to +8.27), better.",
            "better in 1 and worse in 0 of 1",
        ),
        (
            [0.85, 0.86, 0.84],
            "-5.00 ± 0.82 points (p = 0.004, -7.27 to -2.73), worse.",
            "better in 0 and worse in 1 of 1",
        ),
        ([0.90, 0.99, 0.82], "not significant.", "In none of these comparisons does the workspace make a significant"),
        (
            [0.99],
            "too few seeds to tell, not judged.",
            "Too few seeds have been run to say whether the workspace makes",
        ),
    ],
)
def test_report_judges_the_workspace(ours, verdict, sum_up, write_results):
    text = write_results(make_runs("ait", ours) + make_runs("ait_no_workspace", [0.90, 0.91, 0.89]))
    (line,) = (line for line in text.splitlines() if line.startswith("- Triangle, matched: AiT against the same with"))
    assert line.endswith(verdict)
    assert sum_up in text
    assert text.index("| Triangle, matched | 2 | AiT | ") < text.index("| 2 | AiT without workspace | ")
    assert "python -m x" in text
    assert "Each run: a machine. Costs: a machine; torch 1." in text


def test_report_compares_at_equal_parameters_as_well(write_results):
    runs = make_runs("ait", [0.95, 0.96, 0.97]) + make_runs("ait_no_workspace", [0.90, 0.91, 0.89])
    runs += make_runs("ait, fixed memory", [0.80, 0.81, 0.79]) + make_runs("coordination", [0.70, 0.71, 0.69])
    text = write_results(runs + make_runs("ait_no_workspace_wide_mlp", [0.95, 0.97, 0.96]))
    equal = "+0.00 ± 0.82 points (p = 1.000, -2.27 to +2.27), not significant."
    assert f"AiT against the same without workspace, wider MLP: {equal}" in text
    # What says nothing of the workspace as a whole stands beside, and does not count in the sum.
    assert "AiT against the same, fixed memory: +16.00 ± 0.82 points (p = 0.000, +13.73 to +18.27), better." in text
    assert "AiT against Coordination: +26.00 ± 0.82 points (p = 0.000, +23.73 to +28.27), better." in text
    assert "better in 1 and worse in 0 of 2 comparisons" in text


def test_headline_knows_every_architecture():
    assert set(ARCHITECTURES) <= set(HEADLINE)


def test_report_counts_layers_with_attention(write_results):
    runs = make_runs("ait", [0.95, 0.96]) + make_runs("ait_no_workspace", [0.90])
    assert "layers with attention" not in write_results(runs)
    one = write_results(runs + make_runs("ait, one attention layer", [0.93]))
    assert "| Triangle, matched | 2 | one | 93.00 | 1 | not run | 0 |" in one
    runs += make_runs("ait, two attention layers", [0.94, 0.92])
    text = write_results(runs + make_runs("ait, no attention without memory", [0.6]))
    rows = ["| none | not run | 0 | 60.00 | 1 |", "| two | 93.00 ± 1.41 | 2 | not run | 0 |"]
    rows.append("| all 2 | 95.50 ± 0.71 | 2 | 90.00 | 1 |")
    assert "\n".join(f"| Triangle, matched | 2 {row}" for row in rows) in text
    # A recipe of the paper's sizes has as many as its size says.
    small = make_runs("ait, one attention layer", [0.9], "examples/recipes/triangle.yaml")
    small += make_runs("ait", [0.9], "examples/recipes/triangle.yaml")
    text = write_results([run | {"size": "small", "variant": "original"} for run in small])
    assert "| all 2 | 90.00 | 1 | not run | 0 |" in text


def test_report_shows_how_learning_rates_were_chosen(write_results):
    runs = make_runs("ait, learning rate 0.001", [0.7]) + make_runs("ait, learning rate 0.01", [0.9])
    runs += make_runs("ait, learning rate 0.1", [0.8])
    text = write_results(runs, "learning rates")
    row = "| `examples/recipes/triangle_matched_cpu.yaml` | ait | 0.001: 70.00, 0.01: 90.00, 0.1: 80.00 | 0.01 |  |"
    assert row in text.split("## Learning rates")[1]
    # They are no results on the test set.
    assert row.count("90.00") == text.count("90.00")
    used = write_results(make_runs("ait", [0.9]), setting={"learning_rates_from": "rates.json"})
    assert "a learning rate of its own, chosen without test samples in `rates.json`" in used


def test_help_of_the_report_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "REPORT", tmp_path / "RESULTS.md")
    with pytest.raises(SystemExit) as caught:
        report.main(["--help"])
    assert caught.value.code == 0
    assert not (tmp_path / "RESULTS.md").exists()
    assert "python -m examples.report" in capsys.readouterr().out


def test_report_follows_its_rule_for_defaults(write_results):
    base = make_runs("ait", [0.90, 0.91, 0.89])
    better = make_runs("ait, detached write", [0.95, 0.96, 0.94])
    worse = make_runs("ait, no positions", [0.80, 0.81, 0.79])
    text = write_results(base + better + worse)
    assert "- `differentiable_write=True` against `False`: better; the default **should change**." in text
    assert '- `position_embedding_type="learned"` against `"none"`: worse; the default stays.' in text
    assert '- `pooling="mean"` against `"flatten"` and `"cls"`: not compared at a length that tells.' in text
    # Better on one recipe and worse on another is not enough, nor is better with more parameters.
    mixed = make_runs("ait, detached write", [0.8, 0.81, 0.79], "examples/recipes/triangle_cpu.yaml")
    text = write_results(base + better + mixed + make_runs("ait", [0.9, 0.91, 0.89], mixed[0]["recipe"]))
    assert "against `False`: better, worse; the default stays." in text
    larger = [{**run, "num_parameters": 1300} for run in better]
    assert "better; the default stays, because the alternative is larger." in write_results(base + larger)


def test_report_compares_groups_with_the_question_alone(write_results):
    runs = make_runs("ait", [0.6, 0.7], "examples/recipes/sort_of_clevr_cpu.yaml")
    for run in runs:
        asked = {"relational": run["accuracy"], "binary": 0.9}
        run |= {"accuracy_by_group": asked, "question_only_by_group": {"relational": 0.48, "binary": 0.44}}
    text = write_results(runs)
    assert "| relational | 48.0 | 65.00 ± 7.07 |" in text
    # The published AiT answers binary questions alone.
    assert "On binary questions this run is above the best published AiT by 9.97 points" in text
    assert "another training, and on another variant of the data, so that" in text


def test_report_says_when_predictions_flip(write_results):
    row = {"batch_size": 1, "accuracy_mean": 50.0, "accuracy_stdev": None, "largest_range_over_orders": 0.0}
    for changed, sentence in ((0.0, "no prediction depends on the batch"), (0.1, "up to 0.10 % of the predictions")):
        summary = [{**row, "update_memory": False, "largest_share_changed": changed}]
        assert sentence in write_results([], "evaluation batches", batch_summary=summary, checkpoints=[1])


def test_report_that_fails_replaces_nothing(tmp_path, monkeypatch):
    results, text = tmp_path / "results", tmp_path / "RESULTS.md"
    shutil.copytree(RESULTS, results)
    text.write_text("old")
    monkeypatch.setattr(report, "RESULTS", results)
    monkeypatch.setattr(report, "REPORT", text)
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    drawn = []

    def draw_one(panels, path):
        if drawn:
            raise OSError(28, "No space left on device")
        drawn.append(path)
        path.with_suffix(".png").write_bytes(b"half")

    monkeypatch.setattr("examples.comparison.plots.draw_accuracies", draw_one)
    with pytest.raises(OSError, match="No space left"):
        report.main([])
    assert len(drawn) == 1 and text.read_text() == "old"
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before


def find_row(text, start):
    (row,) = (line for line in text.splitlines() if line.startswith(start))
    return row


def test_target_is_not_reached_by_rounding(write_results):
    start = "| our own, any recipe | Triangle, matched |"
    assert find_row(write_results(make_runs("ait", [0.9896] * 3)), start).endswith("| no |")
    assert find_row(write_results(make_runs("ait", [0.99] * 3)), start).endswith("| **yes** |")


def test_target_is_held_against_the_best_recipe_and_not_against_ablations(write_results):
    runs = make_runs("ait", [0.95] * 3) + make_runs("ait, no memory", [0.999] * 3)
    strong = make_runs("ait", [0.991, 0.993], "examples/recipes/triangle_matched_strong.yaml")
    row = find_row(write_results(runs + strong), "| our own, any recipe | Triangle, matched |")
    assert "| 99.20 ± 0.14 (2 seeds, `triangle_matched_strong`) | **yes** |" in row


def test_table_of_all_models_gives_the_lowest_before_the_highest(write_results):
    text = write_results(make_runs("ait", [0.95, 0.93, 0.97]))
    assert "| ait | 95.00 ± 2.00 | 93.00 to 97.00 | 0, 1, 2 | 1,234 |" in text


@pytest.mark.parametrize(("accuracy", "relation"), [(0.9, "falls short of"), (0.999, "is above")])
def test_run_is_held_against_the_best_published_ait(write_results, accuracy, relation):
    text = write_results(make_runs("ait", [accuracy] * 2, "examples/recipes/triangle_cpu.yaml"))
    best = max(value for name, value in BENCHMARKS["triangle"].published.items() if name.startswith("AiT"))
    assert f"This run {relation} the best published AiT by {abs(100 * accuracy - best):.2f} points" in text


def test_alternative_of_a_few_percent_more_parameters_counts_as_larger(write_results):
    base = [{**run, "num_parameters": 1000} for run in make_runs("ait", [0.90, 0.91, 0.89])]
    better = make_runs("ait, detached write", [0.95, 0.96, 0.94])
    for number, advice in ((1009, "**should change**"), (1020, "stays, because the alternative is larger")):
        text = write_results(base + [{**run, "num_parameters": number} for run in better])
        assert f"against `False`: better; the default {advice}." in text


def test_trainings_to_the_end_come_first(write_results):
    (short,) = make_runs("ait", [0.9])
    (long,) = make_runs("ait", [0.75], "examples/recipes/sort_of_clevr_full_cpu.yaml")
    asked = {"relational": 0.5, "binary": 0.6, "ternary": 0.4}
    long |= {"accuracy_by_group": asked, "question_only_by_group": asked}
    text = write_results([short, long]).split("## Does the memory help?")[0]
    accuracy = "75.00; relational 50.00; binary 60.00; ternary 40.00"
    row = f"| Sort-of-CLEVR, fixed | `sort_of_clevr_full_cpu` | AiT | {accuracy} | 1 | 1,234 | 100 |"
    assert f"{row} 94.00 (Relation Network, binary questions) |" in text
    assert "triangle_matched_cpu" not in text


def test_epochs_on_top_of_those_of_a_trained_model_are_told_from_all(write_results):
    asked = {"relational": 0.5, "binary": 0.6, "ternary": 0.4}
    (redrawn,) = make_runs("ait", [0.75], "examples/recipes/sort_of_clevr_redrawn_cpu.yaml")
    redrawn |= {"accuracy_by_group": asked, "question_only_by_group": asked}
    # Few epochs are to the end too, if they are not the first.
    (short,) = make_runs("ait", [0.8], "examples/recipes/cifar10_continued_cpu.yaml")
    text = write_results([redrawn, short])
    rows = text.split("## Does the memory help?")[0].splitlines()
    for name, number in (("sort_of_clevr_redrawn_cpu", 60), ("cifar10_continued_cpu", 18)):
        (row,) = [line for line in rows if f"| `{name}` |" in line]
        assert f"| 1,234 | {number} more |" in row
    start = "`runs/compare/sort_of_clevr_full_cpu/ait-seed_0`"
    assert f"60 epoch(s), from the same weights for all seeds, {start}, over" in text


def test_headline_has_the_time_of_each_model(write_results):
    runs = make_runs("ait", [0.95, 0.96]) + make_runs("ait_no_workspace", [0.90, 0.91])
    costs = {"ait": {"training_time_ratio": 1.0}, "ait_no_workspace": {"training_time_ratio": 0.8}}
    costs = {label: {**COST, **cost} for label, cost in costs.items()}
    text = write_results(runs, costs={runs[0]["recipe"]: costs}, cost_hardware="another machine")
    assert "Each run: a machine. Costs: another machine;" in text
    assert "| Triangle, matched | 2 | AiT | 95.50 ± 0.71 | 2 | 1,234 | 2.0 / 1.0 | 1.00 |" in text
    assert "| Triangle, matched | 2 | AiT without workspace | 90.50 ± 0.71 | 2 | 1,234 | 2.0 / 1.0 | 0.80 |" in text
    assert "These models have 0.0 to 0.0 million parameters" in text


@pytest.mark.parametrize(("others", "num_seeds"), [((2, 2), 2), ((40, 2), 3), ((2, 4), 3)])
def test_headline_has_the_comparison_of_each_data_set_that_tells_most(others, num_seeds, write_results):
    runs = []
    # Up to three, more seeds count for more than epochs.
    for recipe, (num_epochs, number), accuracy in (("strong", (10, num_seeds), 0.9), ("cpu", others, 0.7)):
        recipe = f"examples/recipes/triangle_matched_{recipe}.yaml"
        for label in ("ait", "ait_no_workspace"):
            runs += [run | {"num_epochs": num_epochs} for run in make_runs(label, [accuracy] * number, recipe)]
    text = write_results(runs + make_runs("ait_no_workspace", [0.5], "examples/recipes/triangle_cpu.yaml"))
    headline = text.split("## Does the memory help?")[1].split("## All models")[0]
    assert "| Triangle, matched | 10 | AiT | 90.00 ± 0.00 |" in headline
    assert "70.00" not in headline and "original" not in headline and headline.count("- Triangle") == 1
    # A training to the end with fewer seeds is judged beside its own table.
    trained = text.split("## Does the memory help?")[0]
    verdict = "- Triangle, matched, 40 epochs: AiT against the same without workspace: +0.00"
    assert (verdict in trained) is (others == (40, 2)) and trained.count("- Triangle") == (others == (40, 2))


def test_headline_keeps_the_models_that_a_shorter_comparison_alone_has(write_results):
    runs = []
    compared = (("ait", "ait_no_workspace"), ("ait", "ait_no_workspace", "ait, fixed memory"))
    for recipe, num_epochs, labels in zip(("strong", "cpu"), (40, 10), compared):
        recipe = f"examples/recipes/triangle_matched_{recipe}.yaml"
        for label in labels:
            runs += [run | {"num_epochs": num_epochs} for run in make_runs(label, [0.9, 0.92, 0.91], recipe)]
    text = write_results(runs)
    headline = text.split("## Does the memory help?")[1].split("## All models")[0]
    for num_epochs, others in ((40, ["without workspace"]), (10, ["without workspace", "fixed memory"])):
        verdicts = [line for line in headline.splitlines() if line.startswith(f"- Triangle, matched, {num_epochs} ")]
        assert len(verdicts) == len(others) and all(name in line for name, line in zip(others, verdicts))
        assert f"| Triangle, matched | {num_epochs} | AiT | 91.00 ± 1.00 |" in headline
    # Of equal length they are told apart, and neither takes the other's place.
    text = write_results([run | {"num_epochs": 10} for run in runs])
    headline = text.split("## Does the memory help?")[1].split("## All models")[0]
    assert headline.count("| 10 | AiT |") == 2 and headline.count("- Triangle, matched, 10 epochs") == 3
    # Of a shorter one with nothing of its own, or with fewer seeds, there is none.
    nothing_new = [run for run in runs if run["label"] != "ait, fixed memory"]
    fewer_seeds = [run for run in runs if run["num_epochs"] == 40 or run["seed"] < 2]
    for kept in (nothing_new, fewer_seeds):
        headline = write_results(kept).split("## Does the memory help?")[1].split("## All models")[0]
        assert "| 40 | AiT |" in headline and "| 10 | AiT |" not in headline


@pytest.mark.parametrize(("title", "chance"), [("Triangle, matched", 50.0), ("CIFAR-10", 10.0)])
def test_chance_is_that_of_the_number_of_classes(title, chance):
    assert report.find_chance({"ait": make_runs("ait", [0.5])}, title) == chance
    asked = {"relational": 0.48, "binary": 0.44, "ternary": 0.52, "binary: shape of closest": 0.9}
    assert report.find_chance({"ait": [{"question_only_by_group": asked}]}, title) == 48.0
    asked["non-relational"] = 0.54
    assert report.find_chance({"ait": [{"question_only_by_group": asked}]}, title) == 50.0


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"a": 1}', '{"kind": "portrait"}', *(f'{{"kind": "{kind}"}}' for kind in report.KINDS)]
)
def test_foreign_results_file_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.report.RESULTS", tmp_path)
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(InputError, match=r"mine\.json is damaged, or of no kind that is reported \(benchmark, .*move"):
        report.read_results()
