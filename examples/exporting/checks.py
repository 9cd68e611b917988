"""Is an export what it was made from? Differences and times, side by side with the model in torch."""

import math
import statistics
import time
from typing import Any

import torch

from examples.errors import InputError
from examples.exporting.graphs import GraphSetting, Inputs, Runner, make_inputs, run_model, stack_memories
from modeling_ait import AiTPreTrainedModel


# Of a graph's outputs, relative to the largest number in them, or 1.
TOLERANCE = 1e-5
# A graph that writes is followed through so many batches.
NUM_WRITES = 3


def compare_outputs(computed: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two outputs, relative to the largest number or 1; infinite if one is not finite."""
    difference = (computed.float() - expected).abs().max() / expected.abs().max().clamp(min=1)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def find_largest_difference(run: Runner, model: AiTPreTrainedModel, inputs: Inputs, is_interpolated: bool) -> float:
    """The largest difference of an export from the model; memories go in and come out several times."""
    largest = 0.0
    inputs = dict(inputs)
    for write in range(NUM_WRITES if "memories" in inputs else 1):
        # Other images each time.
        inputs["pixel_values"] = inputs["pixel_values"].roll(write, dims=-1)
        computed, expected = run(inputs), run_model(model, inputs, is_interpolated)
        largest = max([largest, *map(compare_outputs, computed, expected)])
        if "memories" in inputs:
            inputs["memories"] = expected[1]
    return largest


def time_in_turn(run: Runner, model: AiTPreTrainedModel, inputs: Inputs, num_rounds: int) -> dict[str, float]:
    """Median milliseconds of torch and of an export, run in turn, so that a machine that slows down slows both."""
    calls = {"torch_ms": lambda: run_model(model, inputs), "exported_ms": lambda: run(inputs)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(times) for name, times in seconds.items()}


def check_export(
    run: Runner,
    model: AiTPreTrainedModel,
    batch_sizes: list[int],
    num_questions: int,
    num_rounds: int,
    setting: GraphSetting | None,
) -> list[dict[str, Any]]:
    """
    Compare an export with the model at every batch size, and time both.

    Args:
        run: The export, opened from its file.
        model: What it was made from.
        batch_sizes: Batch sizes.
        num_questions: Questions for each image, where the model takes them.
        num_rounds: Timed rounds.
        setting: What a graph leaves open; `None` for a quantized model, which may differ by any finite number.

    Returns:
        For each batch size the largest difference and the median times.

    Raises:
        InputError: if a graph differs by more than the tolerance, or an output is not finite.
    """
    config: Any = model.config
    height, width = config.image_shape
    shapes = [(height, width)]
    if setting is not None and setting.dynamic_image_size:
        shapes.append((height + config.patch_shape[0], width + 2 * config.patch_shape[1]))
    memories = {"memories": stack_memories(model)} if setting is not None and setting.update_memory else {}
    rows = []
    for batch_size in batch_sizes:
        largest = 0.0
        for shape in shapes:
            inputs = make_inputs(config, batch_size, shape, num_questions, seed=batch_size) | memories
            largest = max(largest, find_largest_difference(run, model, inputs, shape != shapes[0]))
        if not largest < (TOLERANCE if setting is not None else math.inf):
            raise InputError(
                f"What was exported differs from the model by {largest:.1e} at batch size {batch_size}, so it is not "
                "written. Is one of the packages newer than those in constraints.txt?"
            )
        inputs = make_inputs(config, batch_size, shapes[0], num_questions) | memories
        times = time_in_turn(run, model, inputs, num_rounds)
        rows.append({"batch_size": batch_size, "difference": largest, **times})
    return rows
