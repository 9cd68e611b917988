"""Costs of models: ratios of times of the same round, the same way up."""

from examples.comparison import costs
from examples.comparison.costs import make_builders
from examples.comparison.plan import Setting, list_variants
from examples.training import cost as cost_module
from examples.training.cost import INFERENCE, TRAINING, CostSetting, count_flops, time_rounds
from tests.examples.conftest import TINY_MODEL


def test_time_ratio_is_that_of_a_model_to_the_first(monkeypatch):
    seconds = {"ait": [1.0, 2.0, 4.0], "vit": [2.0, 6.0, 20.0]}
    monkeypatch.setattr(costs, "time_rounds", lambda *arguments: seconds)
    monkeypatch.setattr(costs, "count_parameters", lambda model: model)
    monkeypatch.setattr(costs, "count_flops", lambda build, mode, setting: 3.0 if mode == TRAINING else 1.0)
    builders = {"ait": lambda: 11, "vit": lambda: 22}
    measured = costs.measure_recipe(builders, {"ait": 5.0, "vit": 6.0}, CostSetting(batch_size=8), 3)
    # The median of 2, 3 and 5; the ratio of the medians would be 3 as well at other times, and its inverse 1/3.
    assert (measured["ait"]["training_time_ratio"], measured["vit"]["training_time_ratio"]) == (1.0, 3.0)
    assert measured["ait"]["training_images_per_second"] == 8 / 2
    assert measured["vit"]["training_images_per_second"] == 8 / 6
    assert measured["vit"]["training_time_ratio_to"] == "ait"
    for label, parameters, memory in (("ait", 11, 5.0), ("vit", 22, 6.0)):
        assert measured[label]["num_parameters"] == parameters
        assert measured[label]["training_peak_memory_mib"] == memory
        assert (measured[label]["training_forward_flops"], measured[label]["inference_flops"]) == (3.0, 1.0)
    cells = costs.describe_cost({**measured["vit"], "training_forward_flops": 3e6, "inference_flops": 1e6}, "-")
    assert cells == ["3.0 / 1.0", "1 (3.00)", "6"]
    assert costs.describe_cost(None, "-") == ["-"] * 3


def test_models_are_timed_in_turn_in_an_alternating_order_after_a_warm_up(monkeypatch):
    calls = []
    monkeypatch.setattr(cost_module, "make_step", lambda build, mode, setting: lambda: calls.append(build))
    clock = iter(range(1000))
    monkeypatch.setattr(cost_module.time, "perf_counter", lambda: next(clock))
    seconds = time_rounds({"a": "a", "b": "b"}, TRAINING, CostSetting(1), num_rounds=3)
    assert "".join(calls) == "aaabbb" + "ba" + "ab" + "ba"
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_wider_mlp_costs_what_its_width_adds():
    """As many parameters as the AiT to a width's rounding, and two products of that width for each token."""
    names = ["ait", "ait_no_workspace", "ait_no_workspace_wide_mlp"]
    recipe = {"model_config": {**TINY_MODEL, "memory_slot_size": 16}}
    builders = make_builders(Setting("tiny.yaml", None), recipe, None, list_variants(names, []))
    ait, narrow, wide = (builders[name]() for name in names)
    width, layers, tokens = TINY_MODEL["hidden_size"], TINY_MODEL["num_hidden_layers"], 4
    added = wide.config.intermediate_size - narrow.config.intermediate_size
    assert added > 0
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ait, narrow, wide)]
    # Weights of both products and the first one's bias.
    unit = layers * (2 * width + 1)
    assert counts[2] - counts[1] == added * unit
    assert abs(counts[2] - counts[0]) <= unit / 2
    for mode in (TRAINING, INFERENCE):
        narrow_flops, wide_flops = (count_flops(builders[name], mode, CostSetting(3)) for name in names[1:])
        assert wide_flops - narrow_flops == layers * tokens * 2 * (2 * width * added)
