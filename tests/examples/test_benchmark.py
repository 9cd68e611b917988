"""The benchmark: what it measures, divides, keeps and refuses."""

import json
import time

import pytest

from examples.benchmark import BenchmarkArguments, main, run
from examples.benchmarking import measuring
from examples.benchmarking import suite as suite_module
from examples.benchmarking.shapes import SHAPES, Shape
from examples.benchmarking.tables import write_benchmark
from examples.errors import InputError
from modeling_ait import AiTConfig


@pytest.fixture
def tiny_shape(monkeypatch):
    memory = {"num_memory_slots": 3, "memory_slot_size": 4, "num_memory_heads": 2, "bottleneck_size": 2}
    monkeypatch.setitem(SHAPES, "small", Shape(8, 1, 2, 8, 4, 4, memory))
    monkeypatch.setattr(measuring, "measure_peak_memory", lambda build, mode, setting: 1.0)


def test_benchmark_writes_what_it_measures(tiny_shape, tmp_path, capsys):
    output = tmp_path / "deep" / "benchmark.json"
    flags = ["--shapes", "small", "--num_rounds", "2", "--write_tokens", "64", "--write_width", "8"]
    main([*flags, "--clock", "cpu", "--dtype", "bfloat16", "--output", str(output)])
    results = json.loads(output.read_text(encoding="utf-8"))
    assert results["kind"] == "benchmark"
    assert list(results["shapes"]) == ["small"]
    assert results["shapes"]["small"]["training"]["ait"]["kept_memory_ratio"] > 1
    assert (results["setting"]["clock"], results["setting"]["dtype"]) == ("cpu", "bfloat16")
    assert [row["num_tokens"] for row in results["write"]] == [64]
    assert sorted(path.name for path in output.parent.glob("*.png")) == ["benchmark.png", "benchmark_write.png"]
    printed = capsys.readouterr().out
    assert "1 of 2: small" in printed and "2 of 2: the write of 64 tokens" in printed
    assert "Time is what the process computed" in "\n".join(write_benchmark(results, []))


def test_models_and_modes_are_chosen(tiny_shape, capsys):
    results = []
    flags = BenchmarkArguments(models=["ait_no_workspace", "set_transformer"], modes=["inference"], num_rounds=2)
    run(flags, results.append)
    (measured,) = results[-1]["shapes"].values()
    assert list(measured["inference"]) == ["ait_no_workspace", "set_transformer", "vit"]
    assert "training" not in measured


def test_write_is_measured_alone(tiny_shape):
    results = []
    run(BenchmarkArguments(write_tokens=[32], write_width=8, num_rounds=2), results.append)
    assert (results[-1]["shapes"], results[-1]["setting"]["shapes"]) == ({}, [])
    assert [row["num_tokens"] for row in results[-1]["write"]] == [32]


def test_what_was_measured_is_saved_before_the_rest(tiny_shape, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("killed")

    monkeypatch.setattr(measuring, "measure_write", fail)
    output = tmp_path / "benchmark.json"
    with pytest.raises(RuntimeError, match="killed"):
        main(["--shapes", "small", "--num_rounds", "2", "--write_tokens", "64", "--output", str(output)])
    assert list(json.loads(output.read_text(encoding="utf-8"))["shapes"]) == ["small"]


def test_suite_is_run_by_one_flag(tiny_shape, tmp_path, monkeypatch):
    suites = []

    def note(suite):
        suites.append(suite)
        yield {"ratios": {}, "data": {}, "batch_sizes": {}, "left_out": ["all"]}

    monkeypatch.setattr(suite_module, "run_suite", note)
    output = tmp_path / "benchmark.json"
    main(["--suite", "--num_workers", "0", "--largest_batch_size", "8", "--output", str(output)])
    (suite,) = suites
    assert (suite.num_workers, suite.largest_batch_size, list(suite.shapes)) == (0, 8, ["small"])
    assert suite.models == ["ait", "vit"]
    assert 0 < suite.deadline - time.monotonic() <= 8 * 60
    assert json.loads(output.read_text(encoding="utf-8"))["suite"]["left_out"] == ["all"]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_a_vit_with_the_paper_sizes_among_them(name):
    config = AiTConfig(**SHAPES[name].make_fields())
    assert config.intermediate_size == 4 * config.hidden_size
    if name in ("small", "medium", "base"):
        paper = AiTConfig.from_size(name, image_size=32, patch_size=4, num_labels=10)
        assert config.to_dict() == paper.to_dict()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shapes", "smal"], "no shape 'smal'. Did you mean 'small'"),
        (["--models", "vitt"], "no model 'vitt'. Did you mean 'vit'"),
        (["--num_rounds", "1"], "`--num_rounds` must be at least 2"),
        (["--batch_size", "0"], "`--batch_size` must be at least 1"),
        (["--write_tokens", "1"], "`--write_tokens` must be at least 2"),
        (["--device", "nowhere"], "There is no device 'nowhere'"),
        (["--dtype", "float16"], "no dtype 'float16'. Did you mean 'bfloat16'"),
        (["--clock", "sun"], "no clock 'sun'"),
        (["--modes", "train"], "no mode 'train'. Did you mean 'training'"),
        (["--official", "nowhere"], "There is no folder 'nowhere'. `--official` takes a checkout"),
        (["--clock", "cpu", "--device", "cuda"], "`--clock cpu` does not tell what a GPU computes"),
        (["--suite", "--compile"], "`--compile` has no effect here: the suite chooses it"),
        (["--suite", "--write_tokens", "64"], "`--write_tokens` has no effect here: the suite chooses it"),
        (["--num_images", "8"], "`--num_images` has no effect here: it is of the suite: add `--suite`"),
        (["--suite", "--minutes", "0"], "`--minutes` must be above 0"),
        (["--suite", "--num_workers", "-1"], "`--num_workers` must be at least 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        main(flags)
