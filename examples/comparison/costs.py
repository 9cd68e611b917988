"""What the models of a comparison cost: parameters, operations, speed and peak memory."""

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from examples.baselines.build import build_architecture, count_parameters
from examples.comparison.plan import Setting, Variant, describe_task, make_config, merge_model_config
from examples.data.catalog import Benchmark
from examples.training.cost import (
    INFERENCE,
    TRAINING,
    Builder,
    CostSetting,
    count_flops,
    measure_peak_memory,
    time_rounds,
)


Costs = dict[str, dict[str, Any]]


def make_builders(
    setting: Setting, recipe: dict[str, Any], benchmark: Benchmark | None, variants: list[Variant]
) -> dict[str, Builder]:
    """How to build each model of a recipe."""
    return {
        variant.label: partial(
            build_architecture,
            variant.architecture,
            make_config(setting.size, {**merge_model_config(recipe, variant.change), **describe_task(benchmark)}),
            recipe.get("baseline_config"),
            recipe.get("match_parameters", True),
        )
        for variant in variants
    }


def measure_costs(
    builders: Mapping[str, dict[str, Builder]], setting: CostSetting, num_rounds: int
) -> dict[str, Costs]:
    """Parameters, operations, speed and peak memory of each model, by recipe."""
    # All of the memory before the first timing, which raises the mark that later processes start from.
    memory = {
        recipe: {label: measure_peak_memory(build, TRAINING, setting) for label, build in models.items()}
        for recipe, models in builders.items()
    }
    return {recipe: measure_recipe(models, memory[recipe], setting, num_rounds) for recipe, models in builders.items()}


def measure_recipe(
    builders: dict[str, Builder], memory: dict[str, float], setting: CostSetting, num_rounds: int
) -> Costs:
    """Parameters, operations and speed of each model of one recipe, beside its peak memory."""
    seconds = time_rounds(builders, TRAINING, setting, num_rounds)
    first = next(iter(builders))
    costs = {}
    for label, build in builders.items():
        ratios = [one / other for one, other in zip(seconds[label], seconds[first])]
        costs[label] = {
            "num_parameters": count_parameters(build()),
            "training_forward_flops": count_flops(build, TRAINING, setting),
            "inference_flops": count_flops(build, INFERENCE, setting),
            "training_images_per_second": setting.batch_size / statistics.median(seconds[label]),
            "training_time_ratio": statistics.median(ratios),
            "training_time_ratio_to": first,
            "training_peak_memory_mib": memory[label],
        }
    return costs


def describe_cost(cost: dict[str, Any] | None, missing: str) -> list[str]:
    """The cells of a table for operations, speed and peak memory; `missing` where they were not measured."""
    if cost is None:
        return [missing] * 3
    return [
        f"{cost['training_forward_flops'] / 1e6:.1f} / {cost['inference_flops'] / 1e6:.1f}",
        f"{cost['training_images_per_second']:.0f} ({cost['training_time_ratio']:.2f})",
        f"{cost['training_peak_memory_mib']:.0f}",
    ]
