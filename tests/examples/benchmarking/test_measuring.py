"""What the benchmark measures, divides and keeps."""

import time

import pytest
import torch

from examples.benchmarking import measuring
from examples.benchmarking.measuring import describe_costs, make_builders, measure_shape, measure_write
from examples.training.cost import TRAINING, CostSetting, count_kept_bytes, measure_kept_memory
from modeling_ait import AiTConfig


ROUNDS = {
    "ait": [2.0, 4.0, 6.0, 8.0, 10.0],
    "vit": [1.0, 1.0, 2.0, 2.0, 2.0],
    "official": [4.0, 4.0, 12.0, 16.0, 40.0],
}


def get_name(build):
    return "official" if build.func is measuring.build_official else build.args[0]


@pytest.fixture
def measured_costs(monkeypatch):
    megabytes = {"ait": 30.0, "vit": 20.0, "official": 60.0}
    monkeypatch.setattr(measuring, "time_rounds", lambda builders, *rest: {name: ROUNDS[name] for name in builders})
    monkeypatch.setattr(measuring, "measure_peak_memory", lambda build, *rest: megabytes[get_name(build)])
    monkeypatch.setattr(measuring, "measure_kept_memory", lambda build, *rest: 2 * megabytes[get_name(build)])
    monkeypatch.setattr(measuring, "count_parameters", lambda model: 1)


def test_each_model_is_divided_by_the_vit(measured_costs, tiny_shape):
    results = measure_shape(tiny_shape, ["ait", "vit"], CostSetting(4), num_rounds=5)
    expected = {
        "seconds": 6.0,
        "time_ratio": 4.0,
        "time_ratio_quartiles": [2.5, 4.5],
        # 4 images of 4 patches in 6 seconds.
        "tokens_per_second": 16 / 6,
        "peak_memory_mib": 30.0,
        "memory_ratio": 1.5,
    }
    assert results["inference"]["ait"] == expected
    assert results["training"]["ait"] == {**expected, "kept_memory_mib": 60.0, "kept_memory_ratio": 1.5}
    assert results["training"]["vit"]["time_ratio"] == results["training"]["vit"]["memory_ratio"] == 1.0
    line = describe_costs(results)[0]
    assert "training, ait: 6000.0 ms, 4.000 times the vit's (2.500 to 4.500), 3 tokens/s" in line
    assert "kept for backward 60 MiB (1.500)" in line and "official" not in line


def test_official_code_is_one_more_peer(measured_costs, monkeypatch, tiny_shape):
    monkeypatch.setattr(measuring, "build_official", lambda official, config, device: torch.nn.Linear(1, 1))
    results = measure_shape(tiny_shape, ["ait", "vit"], CostSetting(4), 5, ["training"], official="checkout")
    assert "inference" not in results
    assert list(results["training"]) == ["ait", "vit", "official"]
    assert results["training"]["official"]["time_ratio"] == 6.0
    assert results["training"]["ait"]["time_ratio_to_official"] == 0.5
    assert "0.500 times the official code's" in describe_costs(results)[0]


def test_kept_bytes_are_counted_once_without_what_is_left_out():
    weight, inputs = torch.ones(8, requires_grad=True), torch.ones(8)

    def compute():
        hidden = weight * inputs  # keeps the inputs
        exponential = hidden.exp()  # keeps its result
        return (exponential * hidden).sum()  # keeps both of its factors, one of them again

    assert count_kept_bytes(compute, []) == 3 * 8 * 4
    assert count_kept_bytes(compute, [weight, inputs[:2]]) == 2 * 8 * 4


def test_workspace_keeps_more_than_none_and_weights_are_not_counted(tiny_shape):
    builders = make_builders(tiny_shape, ["ait", "ait_no_workspace"])
    kept = {name: measure_kept_memory(build, CostSetting(4)) for name, build in builders.items()}
    assert 0 < kept["ait_no_workspace"] < kept["ait"]
    model = builders["ait"]()
    weights = sum(parameter.numel() * 4 for parameter in model.parameters()) / 2**20
    more = measure_kept_memory(builders["ait"], CostSetting(8))
    # Activations double with the batch; weights would not.
    assert more / kept["ait"] > 1.8 and weights > 0


def test_write_keeps_no_more_for_more_tokens():
    rows = [measure_write(num_tokens, 8, 2, CostSetting(1)) for num_tokens in (2048, 4096)]
    assert [row["num_tokens"] for row in rows] == [2048, 4096]
    assert all(row["microseconds_per_token"] > 0 for row in rows)
    # Beyond the selection, the importance and the loads of each head: 8 bytes for a token and head, and their norm.
    grown = (rows[1]["kept_memory_mib"] - rows[0]["kept_memory_mib"]) * 2**20 / 2048
    assert 0 <= grown <= 8 * AiTConfig().num_memory_heads


def test_clock_of_a_shared_machine_is_that_of_the_process(monkeypatch, tiny_shape):
    assert CostSetting(1).read_clock is time.perf_counter
    assert CostSetting(1, clock="cpu").read_clock is time.process_time
    # Counted by the clock of the setting: one tick at the start of each round, and one at its end.
    ticks = iter(range(100))
    monkeypatch.setattr(CostSetting, "read_clock", property(lambda setting: lambda: next(ticks)))
    seconds = measuring.time_rounds(make_builders(tiny_shape, ["vit"]), TRAINING, CostSetting(2), 3)
    assert seconds == {"vit": [1, 1, 1]}
