"""The comparison: what it runs, keeps, resumes, measures and writes."""

import json
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
import yaml

from examples.baselines.build import build_architecture
from examples.compare import main, make_table
from examples.comparison import costs as costs_module
from examples.comparison import runs as runs_module
from examples.comparison.costs import make_builders, measure_costs
from examples.comparison.learning_rates import score_learning_rates, try_learning_rates
from examples.comparison.plan import (
    ABLATIONS,
    Run,
    RunKey,
    Variant,
    choose_benchmark,
    list_settings,
    list_variants,
    plan_runs,
)
from examples.comparison.runs import is_finished
from examples.errors import InputError
from examples.training.callbacks import ResetMemoryCallback
from examples.training.checkpoints import is_complete_checkpoint
from examples.training.cost import INFERENCE, TRAINING, CostSetting, count_flops, measure_peak_memory
from examples.training.recipes import read_recipe
from modeling_ait import AiTConfig
from modeling_ait.memory_ait import make_initial_memory
from tests.examples.conftest import TINY_MODEL
from tests.examples.helpers import ForkedCommand


def find_benchmarks(recipes):
    return {path: choose_benchmark(recipe, []) for path, recipe in recipes.items()}


ONE_RUN = ("--architectures", "ait", "--seeds", "0", "--num_cost_rounds", "0")
POPEN = subprocess.Popen
ABLATED = "ait, detached write"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    fields = {
        "dataset_name": "digits",
        "max_train_samples": 64,
        "max_eval_samples": 40,
        "max_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "logging_steps": 1,
        # It takes longer than such a training.
        "visualize": False,
        "model_config": TINY_MODEL,
    }
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture
def forked_runs(monkeypatch):
    """Runs start at once. That they start as commands of their own is seen where one fails or is stopped."""
    monkeypatch.setattr(runs_module.subprocess, "Popen", ForkedCommand)


def test_comparison_runs_resumes_and_writes_json_and_prints_the_table(recipe, tmp_path, capfd, forked_runs):
    results_file = tmp_path / "results" / "tiny.json"
    command = [
        *(str(recipe), "--architectures", "set_transformer", "--ablations", "detached_write", "--seeds", "0", "1"),
        *("--output_dir", str(tmp_path / "runs"), "--results", str(results_file), "--num_parallel", "2"),
        *("--num_cost_rounds", "2", "--cost_batch_size", "4", "--disable_tqdm", "True"),
    ]
    main(command)
    printed = capfd.readouterr().out
    assert printed.count("; log: ") == 4
    assert "run 4 of 4: tiny, ait, detached write, seed 1; log: " in printed
    assert re.search(r"4 of 4 done, elapsed \d+:\d\d:\d\d, about 0:00:00 remaining", printed)
    results = json.loads(results_file.read_text())
    assert [(run["label"], run["seed"]) for run in results["runs"]] == [
        (label, seed) for seed in (0, 1) for label in ("set_transformer", "ait, detached write")
    ]
    for run in results["runs"]:
        assert run["num_steps"] == 2
        assert len(run["history"]) >= 2
        assert "--disable_tqdm True" in run["command"]
    rows = {row["label"]: row for row in results["summary"]}
    accuracies = [100 * run["accuracy"] for run in results["runs"] if run["label"] == ABLATED]
    assert rows[ABLATED]["accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
    assert rows[ABLATED]["accuracy_stdev"] == pytest.approx(statistics.stdev(accuracies))
    costs = results["costs"][str(recipe)]
    assert costs["set_transformer"]["training_time_ratio"] == 1.0
    assert costs[ABLATED]["num_parameters"] == rows[ABLATED]["num_parameters"]
    # The write costs operations in training alone; the set transformer has none.
    assert costs[ABLATED]["training_forward_flops"] > costs[ABLATED]["inference_flops"]
    assert costs["set_transformer"]["training_forward_flops"] == costs["set_transformer"]["inference_flops"]
    assert results["kind"] == "comparison"
    assert (
        f"| tiny | {ABLATED} | {rows[ABLATED]['accuracy_mean']:.2f} ± {rows[ABLATED]['accuracy_stdev']:.2f} | 2 |"
        in printed
    )
    assert results["seeds"] == [0, 1] and results["command"].startswith("python -m examples.compare")

    # A second call finds all but the one that is missing; a stopped one is run again.
    (tmp_path / "runs" / "tiny" / "set_transformer-seed_1" / "results.json").unlink()
    del results["runs"][2]
    results["cost_hardware"] = "another machine"
    results_file.write_text(json.dumps(results))
    main([*command, "--num_cost_rounds", "0"])
    assert capfd.readouterr().out.count("; log: ") == 1
    again = json.loads(results_file.read_text())
    assert [run["label"] for run in again["runs"]] == ["set_transformer", ABLATED] * 2
    assert [run["accuracy"] for run in again["runs"] if run != again["runs"][2]] == [
        run["accuracy"] for run in results["runs"]
    ]
    # They stay until they are measured again.
    assert (again["costs"], again["cost_hardware"]) == (results["costs"], "another machine")

    with pytest.raises(InputError, match=r"(?s)the run of another command.*--overwrite"):
        main([*command, "--learning_rate", "0.5"])


def test_results_of_a_changed_recipe_are_not_taken_for_its_own(recipe, tmp_path, forked_runs):
    command = [str(recipe), *ONE_RUN, "--output_dir", str(tmp_path / "runs")]
    main(command)
    recipe.write_text(recipe.read_text() + "learning_rate: 0.5\n")
    for flags, place in ([], "comparison.json"), (["--overwrite", "True"], "ait-seed_0"):
        with pytest.raises(
            InputError, match=f"{place} holds the results of .* as it was before a change.*--output_dir"
        ):
            main([*command, *flags])


def test_results_file_stands_for_the_folders_of_its_runs(recipe, tmp_path, capfd, forked_runs):
    """Another seed is added on another machine, where the runs before are not."""
    results_file = tmp_path / "results.json"
    runs, command = tmp_path / "runs", [str(recipe), *ONE_RUN, "--results", str(results_file)]
    main([*command, "--output_dir", str(runs)])
    first = json.loads(results_file.read_text())
    assert first["recipes"] == {str(recipe): recipe.read_text()}
    shutil.rmtree(runs)
    capfd.readouterr()
    main([*command, "--output_dir", str(runs), "--seeds", "0", "1"])
    printed = capfd.readouterr().out
    assert f"2 runs, 1 of them finished, 1 in {results_file} alone" in printed and printed.count("; log: ") == 1
    both = json.loads(results_file.read_text())
    assert both["runs"][0] == first["runs"][0] and both["runs"][1]["seed"] == 1 and both["seeds"] == [0, 1]

    # What was not made with this recipe, or may have been made with another, is not taken.
    recipe.write_text(recipe.read_text() + "learning_rate: 0.5\n")
    with pytest.raises(InputError, match=r"results.json holds the results of .* as it was before a change"):
        main([*command, "--output_dir", str(runs), "--seeds", "0", "1"])
    recipes = {str(recipe): read_recipe(str(recipe))}
    (run,) = plan_runs(
        list_settings(recipes, []), recipes, find_benchmarks(recipes), list_variants(["ait"], []), [0], str(runs), []
    )
    known = {"runs": first["runs"], "recipes": first["recipes"]}
    assert runs_module.find_known_runs(known, [run]) == {run.key: first["runs"][0]}
    assert runs_module.find_known_runs({"runs": first["runs"]}, [run]) == {}


def test_results_file_is_replaced_by_what_has_its_runs_alone(recipe, tmp_path, monkeypatch, forked_runs):
    results_file = tmp_path / "results.json"
    command = [str(recipe), *ONE_RUN, "--output_dir", str(tmp_path / "runs"), "--results", str(results_file)]
    for content in (
        *("mine", "", "[]", '{"kind": "training"}', '{"kind": "comparison"}', '{"kind": "comparison", "runs": 3}'),
        '{"kind": "comparison", "runs": [{"accuracy": 1, "label": "ait", "recipe": "a"}]}',
        '{"kind": "comparison", "runs": [{"accuracy": "1", "label": "a", "recipe": "a", "command": "a"}]}',
        '{"kind": "comparison", "runs": [], "recipes": []}',
    ):
        results_file.write_text(content)
        message = r"holds something else than whole results of the kind 'comparison', .*`--overwrite True`"
        with pytest.raises(InputError, match=message):
            main(command)
        assert results_file.read_text() == content
    main([*command, "--overwrite", "True"])
    assert "overwrite" not in json.loads(results_file.read_text())["setting"]
    other = [part if part != str(tmp_path / "runs") else str(tmp_path / "others") for part in command]
    with pytest.raises(InputError, match=r"holds the run of another command, 'python -m .*which would be lost"):
        main(other)

    # A comparison with one more seed replaces it, when it is complete.
    content = json.loads(results_file.read_text()) | {"costs": {"measured": {}}}
    # As written before it kept the recipes: its costs may be those of another.
    del content["recipes"]
    results_file.write_text(json.dumps(content))

    calls = []

    def fail_at_the_end(runs):
        calls.append(runs)
        if len(calls) > 1:
            raise RuntimeError("stopped")
        return []

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr("examples.comparison.statistics.summarize", fail_at_the_end)
        main([*command, "--seeds", "0", "1"])
    assert json.loads(results_file.read_text()) == content
    main([*command, "--seeds", "0", "1"])
    assert [run["seed"] for run in json.loads(results_file.read_text())["runs"]] == [0, 1]


def test_run_with_damaged_results_is_run_again(recipe, tmp_path):
    recipes = {str(recipe): read_recipe(str(recipe))}
    settings, variants = list_settings(recipes, []), list_variants(["ait"], [])
    (run,) = plan_runs(settings, recipes, find_benchmarks(recipes), variants, [0], str(tmp_path), [])
    assert not is_finished(run)
    run.folder.mkdir(parents=True)
    whole = json.dumps({"accuracy": 0.5, "num_eval_samples": 40, "arguments": {}})
    for content in ("", "[]", "{}", whole[:-10], '{"accuracy": 0.5}', whole):
        (run.folder / "results.json").write_text(content)
        assert is_finished(run) == (content == whole)


def test_failed_run_is_reported_with_the_end_of_its_log(recipe, tmp_path):
    with pytest.raises(InputError, match=r"The run failed with status 1.*(?s:.*)no split 'dev'"):
        main([str(recipe), "--seeds", "0", "--output_dir", str(tmp_path / "runs"), "--eval_split", "dev"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "at least one recipe. Benchmarks: cifar10, .*sort_of_clevr"),
        (
            ["RECIPE", "--architectures", "resnet"],
            "no architecture 'resnet'. Known: ait, ait_no_workspace, ait_no_workspace_wide_mlp",
        ),
        (
            ["RECIPE", "--ablations", "no_memry"],
            r"no ablation 'no_memry'. Did you mean 'no_memory'\? Known: no_balance_loss",
        ),
        (["RECIPE", "--seeds", "1", "1"], "The values of `--seeds` must differ, but are 1, 1"),
        (["RECIPE", "--architectures", "ait", "ait"], "`--architectures` must differ, but are ait, ait"),
        (["RECIPE", "RECIPE"], "The file names of the recipes must differ"),
        (["RECIPE", "--results", "."], "it is a folder"),
        (["RECIPE", "--seed", "9"], "'--seed' cannot be passed on"),
        (["RECIPE", "--hold_out", "True"], "'--hold_out' cannot be passed on"),
        (["RECIPE", "--learning_rates", "0.1", "0.1"], "must differ"),
        (["RECIPE", "--learning_rates", "0.1", "0"], "`--learning_rates` must be above 0"),
        (["RECIPE", "--learning_rates", "0.1", "--learning_rate", "1"], "'--learning_rate' cannot be passed on"),
        (["RECIPE", "--learning_rates", "0.1", "--learning_rates_from", "a.json"], "Pass one of"),
        (["RECIPE", "--model_config={}"], "cannot be passed on"),
        (["RECIPE", "--ablations", "learned_positions"], "'ait, learned positions' changes nothing"),
        (["nowhere.yaml"], "no recipe 'nowhere.yaml'. Shipped"),
    ],
)
def test_bad_arguments_are_refused(flags, message, recipe, tmp_path):
    flags = [str(recipe) if flag == "RECIPE" else flag for flag in flags]
    with pytest.raises(InputError, match=message):
        main([*flags, "--output_dir", str(tmp_path / "runs")])


def test_every_ablation_changes_the_model_as_it_says(recipe, tmp_path):
    changes = [name for name in ABLATIONS if name not in ("differentiable_write", "learned_positions", "mean_pooling")]
    # Of four layers: attention in fewer of them can be taken from those alone.
    model = {**TINY_MODEL, "num_hidden_layers": 4}
    recipes = {str(recipe): {**read_recipe(str(recipe)), "model_config": model}}
    runs = plan_runs(
        list_settings(recipes, []),
        recipes,
        find_benchmarks(recipes),
        list_variants([], changes),
        [0],
        str(tmp_path),
        [],
    )
    assert len(runs) == len(changes) >= 14
    changed = {
        "ait, no balance loss": {"balance_loss_coef": 0.0},
        "ait, no bottleneck": {"bottleneck_size": None},
        "ait, no memory": {"num_memory_slots": 0},
        "ait, detached write": {"differentiable_write": False},
        "ait, beta 0.5": {"hopfield_beta": 0.5},
        "ait, slots 64": {"num_memory_slots": 64},
        "ait, cls pooling": {"pooling": "cls"},
        "ait, two attention layers": {"attention_layers": [1, 3]},
        "ait, no attention without memory": {"attention_layers": [], "num_memory_slots": 0},
    }
    seen = {}
    for run in runs:
        flags = shlex.split(shlex.join(run.command))
        assert flags[flags.index("--architecture") + 1] == "ait"
        if "--model_config" in flags:
            fields = json.loads(flags[flags.index("--model_config") + 1])
            AiTConfig(**fields)
            seen[run.key.label] = {key: value for key, value in fields.items() if model.get(key, ...) != value}
            assert model.keys() <= fields.keys()
        else:
            assert "--reset_memory" in flags
    assert changed.items() <= seen.items()


def test_benchmark_decides_the_script(tmp_path):
    for name, script in (("triangle", "image_classification"), ("sort_of_clevr", "relational_reasoning")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"dataset_name: {name}\n")
        recipes = {str(path): read_recipe(str(path))}
        settings = list_settings(recipes, ["small"])
        (run,) = plan_runs(
            settings, recipes, find_benchmarks(recipes), list_variants(["ait"], []), [3], "runs", ["--bf16", "True"]
        )
        assert run.command[:4] == ("python", "-m", f"examples.{script}", str(path))
        assert run.command[-2:] == ("--bf16", "True")


def test_table_of_a_single_seed_has_no_spread():
    runs = [{"recipe": "a.yaml", "label": "ait", "seed": 0, "accuracy": 0.5, "num_parameters": 1234}]
    assert "| a | ait | 50.00 | 1 | 1,234 |" in make_table(runs, {})


def test_memory_is_reset_at_the_start_of_an_epoch_alone(make_model):
    model = make_model()
    callback, state = ResetMemoryCallback(), type("State", (), {"epoch": 1.0})()
    images = torch.randn(4, 3, *model.config.image_shape)
    model.train()(images)
    written = [memory.clone() for memory in model.ait.memories]
    state.epoch = 1.5
    callback.on_epoch_begin(None, state, None, model=model)
    assert all(torch.equal(memory, before) for memory, before in zip(model.ait.memories, written))
    state.epoch = 2.0
    callback.on_epoch_begin(None, state, None, model=model)
    for index, memory in enumerate(model.ait.memories):
        assert torch.equal(memory, make_initial_memory(memory.shape, index))
        assert not torch.equal(memory, written[index])


def test_flops_are_those_of_the_matrix_products():
    """A ViT block by hand: two operations for each multiplication and addition."""
    config = AiTConfig(**{**TINY_MODEL, "num_memory_slots": 0, "num_hidden_layers": 1, "num_labels": 3})
    tokens, width, mlp = 4, config.hidden_size, config.intermediate_size
    patches = tokens * 48 * width
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp
    expected = 2 * (patches + block + width * 3)
    build = lambda: build_architecture("ait", config)  # noqa: E731  # the shortest form of a builder
    assert count_flops(build, INFERENCE, CostSetting(2)) == expected
    assert count_flops(build, TRAINING, CostSetting(5)) == expected


def test_flops_of_the_write_are_those_of_what_it_selects():
    """Beside the rest: folded queries, logits, what is read of the kept tokens, values and output, by hand."""
    fields = {**TINY_MODEL, "num_hidden_layers": 1, "num_labels": 3, "bottleneck_size": 2}
    build = lambda: build_architecture("ait", AiTConfig(**fields))  # noqa: E731  # the shortest form of a builder
    batch_size, tokens, width, heads, slots, slot_size = 5, 4, 16, 2, 3, 4
    inner = heads * slot_size
    folding = slots * slot_size * inner + width * width * inner + heads * slots * slot_size * width
    selecting = heads * slots * width * batch_size * tokens + heads * slots * 2 * width
    output = heads * slots * width * inner + slots * inner * slot_size
    written = count_flops(build, TRAINING, CostSetting(batch_size)) * batch_size
    read = count_flops(build, INFERENCE, CostSetting(batch_size)) * batch_size
    assert written - read == 2 * (folding + selecting + output)


def test_memory_that_training_does_not_write_costs_no_write():
    config = AiTConfig(**TINY_MODEL, num_labels=3, update_memory=False)
    flops = [
        count_flops(lambda: build_architecture("ait", config), mode, CostSetting(4)) for mode in (TRAINING, INFERENCE)
    ]
    assert flops[0] == flops[1]


def test_memory_of_every_recipe_is_measured_before_the_first_timing(recipe, monkeypatch):
    """A process starts with the high-water mark of its parent, so that a timing in between would hide all of it."""
    second = recipe.with_name("second.yaml")
    second.write_text(recipe.read_text())
    calls = []
    monkeypatch.setattr(costs_module, "measure_peak_memory", lambda *args: calls.append("memory") or 5.0)
    measure = costs_module.time_rounds
    monkeypatch.setattr(costs_module, "time_rounds", lambda *args: calls.append("time") or measure(*args))
    recipes = {str(path): read_recipe(str(path)) for path in (recipe, second)}
    builders = {
        setting.recipe: make_builders(
            setting,
            recipes[setting.recipe],
            choose_benchmark(recipes[setting.recipe], []),
            list_variants(["ait", "vit"], []),
        )
        for setting in list_settings(recipes, [])
    }
    costs = measure_costs(builders, CostSetting(32), 2)
    assert calls == ["memory"] * 4 + ["time"] * 2
    assert [costs[str(path)]["vit"]["training_peak_memory_mib"] for path in (recipe, second)] == [5.0, 5.0]


def test_memory_of_a_failing_process_is_reported():
    with pytest.raises(RuntimeError, match="died"):
        measure_peak_memory(fail_to_build, TRAINING, CostSetting(1))


def fail_to_build():
    raise ValueError("no model")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_stopped_comparison_ends_its_runs(number, status, recipe, tmp_path):
    """As Ctrl-C or a batch system stops it; what its runs have started ends as well."""
    recipe.write_text(recipe.read_text().replace("max_steps: 2", "max_steps: 100000"))
    command = [sys.executable, "-m", "examples.compare", str(recipe), *ONE_RUN, "--output_dir", str(tmp_path / "runs")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
    run = f"--output_dir {tmp_path / 'runs' / 'tiny' / 'ait-seed_0'}"

    def count_processes():
        listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
        return sum(run in line for line in listed.splitlines())

    try:
        wait_until(lambda: count_processes() > 0)
        process.send_signal(number)
        assert process.wait(timeout=60) == status
        wait_until(lambda: count_processes() == 0)
    finally:
        process.terminate()
        _, error = process.communicate()
    assert "Traceback" not in error and ("the same command goes on" in error) == (number == signal.SIGINT)


def test_each_model_gets_the_learning_rate_that_was_best_on_a_held_out_part(recipe, tmp_path, capfd, forked_runs):
    recipe.write_text(recipe.read_text().replace("max_steps: 2", "max_steps: 20"))
    flags = [str(recipe), "--architectures", "ait", "vit", "--seeds", "0", "--output_dir", str(tmp_path / "runs")]
    file, used = tmp_path / "rates.json", tmp_path / "used.json"
    main([*flags, "--learning_rates", "1e-2", "1e-9", "--num_parallel", "2", "--results", str(file)])
    printed = capfd.readouterr().out
    choice = json.loads(file.read_text())
    assert (choice["kind"], choice["costs"], len(choice["runs"])) == ("learning rates", {}, 4)
    assert all("--hold_out True" in run["command"] for run in choice["runs"])
    # A rate at which nothing is learned loses.
    by_rate = {run["label"]: 100 * run["accuracy"] for run in choice["runs"]}
    tried = f"0.01: {by_rate['ait, learning rate 0.01']:.2f}, 1e-09: {by_rate['ait, learning rate 1e-09']:.2f}"
    assert f"| `{recipe}` | ait | {tried} | 0.01 | at the end of what was tried |" in printed

    # As if the ViT had been better at the other one.
    for run in choice["runs"]:
        run["accuracy"] = float((run["label"] == "vit, learning rate 1e-09") == run["label"].startswith("vit"))
    file.write_text(json.dumps(choice))
    more = ["--ablations", "detached_write", "--max_steps", "1", "--num_cost_rounds", "0", "--results", str(used)]
    main([*flags, *more, "--learning_rates_from", str(file)])
    commands = {run["label"]: run["command"] for run in json.loads(used.read_text())["runs"]}
    for label, rate in (("ait", "0.01"), ("vit", "1e-09"), ("ait, detached write", "0.01")):
        assert f"--learning_rate {rate} " in commands[label] and "--hold_out" not in commands[label]


def test_choice_of_learning_rates_that_cannot_be_used_is_refused(recipe, tmp_path):
    file = tmp_path / "rates.json"
    flags = [str(recipe), "--architectures", "ait", "--learning_rates_from", str(file)]
    flags += ["--output_dir", str(tmp_path / "runs")]
    run = {"recipe": str(recipe), "label": "ait, learning rate 0.1", "accuracy": 0.5, "seed": 0}
    # A second seed of one rate alone.
    uneven = [run, run | {"seed": 1}, run | {"label": "ait, learning rate 0.2"}]
    choice = {"kind": "learning rates", "runs": [run], "recipes": {}, "setting": {"learning_rates": [0.1, 0.2]}}
    choice["seeds"] = [0]
    for change, message in (
        (None, "There is no choice of learning rates in .*rates.json': make one with `--learning_rates`"),
        ({"kind": "comparison"}, "There is no choice of learning rates"),
        ({"recipes": {str(recipe): "other"}}, "as it was before a change"),
        ({"runs": []}, "has no learning rate of 'ait' for 'tiny'"),
        ({}, "lacks runs of 'ait' with the learning rate 0.2"),
        ({"runs": uneven, "seeds": [0, 1]}, "lacks runs of 'ait' with the learning rate 0.2"),
    ):
        if change is not None:
            file.write_text(json.dumps({**choice, **change}))
        with pytest.raises(InputError, match=message):
            main(flags)


def test_learning_rates_keep_all_their_digits():
    rates = [0.00031622777, 1e-3, 1.0000001e-3]
    runs = [
        {"recipe": "a.yaml", "label": variant.label, "accuracy": 0.5, "seed": 0}
        for variant in try_learning_rates([Variant("ait", "ait", {})], rates)
    ]
    assert list(score_learning_rates(runs)["a.yaml"]["ait"]) == rates


def test_ablation_that_a_recipe_cannot_have_is_named(tmp_path):
    flags = ["sort_of_clevr_full_cpu", "--ablations", "no_attention", "--output_dir", str(tmp_path)]
    with pytest.raises(InputError, match=r"'ait, no attention' cannot be run on '.*sort_of_clevr_full_cpu\.yaml'"):
        main(flags)


@pytest.mark.parametrize("others", [[], ["--architectures", "ait", "--ablations", "no_attention"]])
def test_nothing_but_the_ait_goes_on_from_its_weights(others, tmp_path):
    flags = ["sort_of_clevr_redrawn_cpu", *others, "--output_dir", str(tmp_path)]
    with pytest.raises(InputError, match=r"goes on from a trained AiT.*`--architectures ait` without `--ablations`"):
        main(flags)


def test_split_that_no_learning_rate_may_be_chosen_on_is_refused_before_the_runs(recipe, tmp_path):
    flags = [str(recipe), "--learning_rates", "1e-2", "--output_dir", str(tmp_path / "runs"), "--eval_split", "test"]
    with pytest.raises(InputError, match="one of `--hold_out` and `--eval_split`"):
        main(flags)
    assert not (tmp_path / "runs").exists()


def test_comparison_runs_in_slices(recipe, tmp_path, capfd, monkeypatch, forked_runs):
    """The last slice leaves what one call would have given."""
    recipe.write_text(recipe.read_text().replace("max_steps: 2", "max_steps: 40"))
    flags = [str(recipe), "--architectures", "ait", "vit", "--seeds", "0", "--num_cost_rounds", "1"]
    flags += ["--cost_batch_size", "4"]

    def call(name, *more):
        main([*flags, "--output_dir", str(tmp_path / name), *more])
        return json.loads((tmp_path / name / "comparison.json").read_text())

    # Of a process for each model, which is seen elsewhere.
    monkeypatch.setattr(costs_module, "measure_peak_memory", lambda *args: 5.0)
    expected = call("whole")
    remaining = tmp_path / "slices" / "comparison-remaining.txt"
    first = tmp_path / "slices" / "tiny" / "ait-seed_0"
    capfd.readouterr()
    with monkeypatch.context() as patches, pytest.raises(SystemExit, match="75"):
        # A forked run could be asked to end before it can be reached.
        patches.setattr(runs_module.subprocess, "Popen", POPEN)
        call("slices", "--minutes", "0.0001")
    printed = capfd.readouterr().out
    assert "The time is up. What remains is listed in" in printed and "run 2 of 2" not in printed
    assert len(remaining.read_text().splitlines()) == 3 and not (first / "results.json").exists()
    measured = call("slices", "--minutes", "100")
    assert not remaining.exists()
    for run, other in zip(measured["runs"], expected["runs"], strict=True):
        assert (run["accuracy"], run["eval_loss"]) == (other["accuracy"], other["eval_loss"])
    assert measured["costs"].keys() == expected["costs"].keys() and "minutes" not in measured["setting"]
    with pytest.raises(InputError, match="`--minutes` must be above 0, but got 0"):
        call("none", "--minutes", "0")


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("1", "1")])
def test_run_has_the_threads_that_the_environment_says(given, expected, recipe, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(runs_module.subprocess, "Popen", lambda command, **options: started.append(options["env"]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    key = RunKey(str(recipe), None, "ait", 0)
    runs_module.start_run(Run(key, tmp_path / "run", ("python", "-m", "nothing")), 3)
    assert [environment["OMP_NUM_THREADS"] for environment in started] == [expected]


def test_costs_remain_where_the_time_is_up_after_the_runs(tmp_path):
    with pytest.raises(SystemExit, match="75"):
        runs_module.end_slice(tmp_path / "remaining.txt", [], costs_remain=True)
    assert (tmp_path / "remaining.txt").read_text() == "# the costs of all models\n"
    runs_module.end_slice(tmp_path / "remaining.txt", [], costs_remain=False)
    assert not (tmp_path / "remaining.txt").exists()


def test_first_minutes_of_the_papers_models(image_folder, tmp_path, forked_runs):
    """A slice of the runs of AiT-Small and ViT-Small as the paper trains them, on few images."""
    flags = ["cifar10", "--size", "small", "--architectures", "ait", "vit", "--seeds", "0", "--num_cost_rounds", "0"]
    flags += ["--output_dir", str(tmp_path / "runs"), "--dataset_name", str(image_folder)]
    flags += ["--image_column", "image", "--per_device_train_batch_size", "4", "--use_cpu", "True"]
    folder = tmp_path / "runs" / "cifar10-small" / "ait-seed_0"
    # A busy machine may need longer to begin.
    for minutes in ("0.3", "1", "3"):
        with pytest.raises(SystemExit, match="75"):
            main([*flags, "--minutes", minutes])
        log = folder.with_name("ait-seed_0.log").read_text()
        if "Asked to end" in log:
            break
    (step,) = re.findall(r"Asked to end: saved at step (\d+) of 300\.", log)
    assert int(step) > 0 and is_complete_checkpoint(folder / f"checkpoint-{step}")
    remaining = (tmp_path / "runs" / "comparison-remaining.txt").read_text().splitlines()
    assert ["--architecture ait" in remaining[0], "--architecture vit" in remaining[1]] == [True, True]


def wait_until(is_so):
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come about within a minute")


def test_size_is_asked_for_where_the_recipe_has_none_and_refused_where_it_sets_the_width(recipe, tmp_path):
    with pytest.raises(InputError, match=r"`--size` cannot be used with .*which sets the width itself"):
        main([str(recipe), "--size", "small", "--output_dir", str(tmp_path / "runs")])
    bare = tmp_path / "bare.yaml"
    bare.write_text("dataset_name: digits\n")
    with pytest.raises(InputError, match=r"needs a size of the paper: `--size small medium base`"):
        main([str(bare), "--output_dir", str(tmp_path / "runs")])


def test_sizes_are_runs_and_costs_of_their_own():
    path = "examples/recipes/cifar10.yaml"
    recipes = {path: read_recipe(path)}
    settings = list_settings(recipes, ["small", "base"])
    runs = plan_runs(settings, recipes, find_benchmarks(recipes), list_variants(["ait"], []), [0], "runs", [])
    assert ["--size" in run.command for run in runs] == [False, True]
    assert [run.folder.as_posix() for run in runs] == ["runs/cifar10-small/ait-seed_0", "runs/cifar10-base/ait-seed_0"]
    sizes = [
        make_builders(setting, recipes[path], None, list_variants(["ait"], []))["ait"].args[1].num_hidden_layers
        for setting in settings
    ]
    assert sizes == [2, 12]


def test_runs_among_the_data_are_refused(image_folder):
    flags = ["--dataset_name", str(image_folder), "--output_dir", str(image_folder / "runs")]
    with pytest.raises(InputError, match="lies in the data folder"):
        main(["examples/recipes/cifar10_cpu.yaml", *flags])
    assert not (image_folder / "runs").exists()
