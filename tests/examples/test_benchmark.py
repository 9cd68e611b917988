"""The benchmark: what it measures, divides, keeps and refuses."""

import json

import pytest

from examples import benchmark
from examples.benchmark import SHAPES, BenchmarkArguments, main, measure_shape, measure_write
from examples.errors import InputError
from examples.training import cost
from examples.training.cost import CostSetting
from modeling_ait import AiTConfig


@pytest.fixture
def tiny_shape(monkeypatch):
    memory = {"num_memory_slots": 3, "memory_slot_size": 4, "num_memory_heads": 2, "bottleneck_size": 2}
    shape = benchmark.Shape(8, 1, 2, 8, 4, 4, memory)
    monkeypatch.setitem(SHAPES, "small", shape)
    return shape


def test_each_model_is_divided_by_the_vit(monkeypatch, tiny_shape):
    rounds = {"ait": [2.0, 4.0, 6.0, 8.0, 10.0], "vit": [1.0, 1.0, 2.0, 2.0, 2.0]}
    monkeypatch.setattr(cost, "time_rounds", lambda builders, mode, setting, number: rounds)
    megabytes = {"ait": 30.0, "vit": 20.0}
    monkeypatch.setattr(cost, "measure_peak_memory", lambda build, mode, setting: megabytes[build.args[0]])
    results = measure_shape(tiny_shape, ["ait", "vit"], CostSetting(4), num_rounds=5)
    for mode in ("training", "inference"):
        assert results[mode]["ait"] == {
            "seconds": 6.0,
            "time_ratio": 4.0,
            "time_ratio_quartiles": [2.5, 4.5],
            "peak_memory_mib": 30.0,
            "memory_ratio": 1.5,
        }
        assert results[mode]["vit"]["time_ratio"] == results[mode]["vit"]["memory_ratio"] == 1.0
    assert results["num_parameters"]["ait"] > results["num_parameters"]["vit"] > 0


def test_write_keeps_no_more_for_more_tokens():
    arguments = BenchmarkArguments(write_width=8, num_rounds=2)
    rows = [measure_write(num_tokens, arguments) for num_tokens in (2048, 4096)]
    assert [row["num_tokens"] for row in rows] == [2048, 4096]
    assert all(row["microseconds_per_token"] > 0 for row in rows)
    # Beyond the selection, the importance and the loads of each head: 8 bytes for a token and head, and their norm.
    grown = (rows[1]["kept_memory_mib"] - rows[0]["kept_memory_mib"]) * 2**20 / 2048
    assert 0 <= grown <= 8 * AiTConfig().num_memory_heads


def test_benchmark_writes_what_it_measures(tiny_shape, tmp_path, capsys, monkeypatch):
    output = tmp_path / "deep" / "benchmark.json"
    monkeypatch.setattr(cost, "measure_peak_memory", lambda build, mode, setting: 1.0)
    flags = ["--shapes", "small", "--num_rounds", "2", "--write_tokens", "2048", "--write_width", "8"]
    main([*flags, "--output", str(output)])
    results = json.loads(output.read_text(encoding="utf-8"))
    assert results["kind"] == "benchmark"
    assert list(results["shapes"]) == ["small"]
    assert results["shapes"]["small"]["training"]["ait"]["time_ratio"] > 0
    assert [row["num_tokens"] for row in results["write"]] == [2048]
    printed = capsys.readouterr().out
    assert "1 of 2: small" in printed and "2 of 2: the write of 2048 tokens" in printed


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
    ],
)
def test_arguments_that_cannot_work_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        main(flags)
