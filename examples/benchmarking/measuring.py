"""Time and memory of models by shape, and of the write alone by number of tokens."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from examples.baselines.build import build_architecture, count_parameters
from examples.benchmarking.official import build_official
from examples.benchmarking.shapes import OFFICIAL, REFERENCE, Shape
from examples.training.cost import (
    MODES,
    TRAINING,
    Builder,
    CostSetting,
    count_kept_bytes,
    measure_kept_memory,
    measure_peak_memory,
    synchronize,
    time_rounds,
)
from modeling_ait import AiTConfig
from modeling_ait.workspace_ait import AiTMemoryWrite


def make_builders(
    shape: Shape, models: Sequence[str], official: str | None = None, device: str = "cpu"
) -> dict[str, Builder]:
    """How to build each model in a shape; with a checkout of the official code its model comes last, for a device."""
    config = AiTConfig(**shape.make_fields())
    builders: dict[str, Builder] = {
        name: partial(build_architecture, name, config, match_parameters=False) for name in models
    }
    if official is not None:
        builders[OFFICIAL] = partial(build_official, official, config, device)
    return builders


def divide_rounds(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile of the ratios of each round."""
    return statistics.quantiles([one / other for one, other in zip(seconds, others)], n=4)


def measure_shape(
    shape: Shape,
    models: Sequence[str],
    setting: CostSetting,
    num_rounds: int,
    modes: Sequence[str] = MODES,
    official: str | None = None,
) -> dict[str, Any]:
    """
    Measure all models in all modes: for each, medians and its ratios to the reference.

    Args:
        shape: Shape of the models.
        models: Architectures, the reference among them.
        setting: How to measure, with the batch size.
        num_rounds: Timed rounds.
        modes: Which of training and inference.
        official: Checkout of the official code, for its model as one more.
    """
    builders = make_builders(shape, models, official, setting.device)
    results: dict[str, Any] = {"num_parameters": {name: count_parameters(build()) for name, build in builders.items()}}
    # All of the memory before the first timing, which raises the mark that later processes start from.
    memory = {
        mode: {name: measure_peak_memory(build, mode, setting) for name, build in builders.items()} for mode in modes
    }
    for mode in modes:
        seconds = time_rounds(builders, mode, setting, num_rounds)
        results[mode] = {}
        for name in builders:
            low, median, high = divide_rounds(seconds[name], seconds[REFERENCE])
            cost = {
                "seconds": statistics.median(seconds[name]),
                "time_ratio": median,
                "time_ratio_quartiles": [low, high],
                "tokens_per_second": setting.batch_size * shape.num_patches / statistics.median(seconds[name]),
                "peak_memory_mib": memory[mode][name],
                "memory_ratio": memory[mode][name] / memory[mode][REFERENCE],
            }
            if official is not None:
                cost["time_ratio_to_official"] = divide_rounds(seconds[name], seconds[OFFICIAL])[1]
            results[mode][name] = cost
    if TRAINING in modes:
        kept = {name: measure_kept_memory(build, setting) for name, build in builders.items()}
        for name, cost in results[TRAINING].items():
            cost |= {"kept_memory_mib": kept[name], "kept_memory_ratio": kept[name] / kept[REFERENCE]}
    return results


def describe_costs(measured: dict[str, Any]) -> list[str]:
    """A line for each mode and model of a shape."""
    lines = []
    for mode in MODES:
        for model, cost in measured.get(mode, {}).items():
            low, high = cost["time_ratio_quartiles"]
            line = (
                f"  {mode}, {model}: {1000 * cost['seconds']:.1f} ms, {cost['time_ratio']:.3f} times the "
                f"{REFERENCE}'s ({low:.3f} to {high:.3f}), {cost['tokens_per_second']:,.0f} tokens/s, peak "
                f"{cost['peak_memory_mib']:.0f} MiB ({cost['memory_ratio']:.3f})"
            )
            if "kept_memory_mib" in cost:
                line += f", kept for backward {cost['kept_memory_mib']:.0f} MiB ({cost['kept_memory_ratio']:.3f})"
            if "time_ratio_to_official" in cost:
                line += f", {cost['time_ratio_to_official']:.3f} times the official code's"
            lines.append(line)
    return lines


def measure_write(num_tokens: int, width: int, num_rounds: int, setting: CostSetting) -> dict[str, Any]:
    """Time of one layer's write, forward and backward, and what it keeps for the backward pass beyond the tokens."""
    torch.manual_seed(setting.seed)
    config = AiTConfig(hidden_size=width, num_attention_heads=1)
    write = AiTMemoryWrite(config).to(setting.device)
    memory = torch.randn(config.num_memory_slots, config.memory_slot_size, device=setting.device)
    tokens = torch.randn(1, num_tokens, width, device=setting.device, requires_grad=True)

    def compute() -> torch.Tensor:
        with torch.autocast(torch.device(setting.device).type, dtype=torch.bfloat16, enabled=setting.use_bf16):
            new_memory, balance_loss, _ = write(memory, tokens)
        return new_memory.sum() + balance_loss

    kept = count_kept_bytes(compute, [tokens, *write.parameters()])
    seconds = []
    for _ in tqdm(range(num_rounds + 2), desc=f"write of {num_tokens} tokens", leave=False, disable=None):
        start = setting.read_clock()
        compute().backward()
        synchronize(setting.device)
        seconds.append(setting.read_clock() - start)
    low, median, high = (1e6 * value / num_tokens for value in statistics.quantiles(seconds[2:], n=4))
    return {
        "width": width,
        "num_tokens": num_tokens,
        "microseconds_per_token": median,
        "microseconds_per_token_quartiles": [low, high],
        "kept_memory_mib": kept / 2**20,
    }
