"""
Time and peak memory of a training step and of inference, by shape: AiT against transformers' ViT of the same shape.

    python -m examples.benchmark --shapes small width_64 --output examples/results/benchmark_cpu.json
    python -m examples.benchmark --shapes --write_tokens 4096 16384 65536

All models run in turn, round by round, in one process, and the ratio of each round is taken: a machine that slows
down slows all. Peak memory is taken in a fresh process for each model and mode. `--write_tokens` measures the write
into the memory alone, forward and backward, by the number of tokens that compete.
"""

import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from examples.baselines.catalog import ARCHITECTURES
from examples.errors import InputError, make_place, refuse_unknown_name, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from examples.training.cost import CostSetting


REFERENCE = "vit"
NARROW_MEMORY = {"num_memory_slots": 32, "memory_slot_size": 16, "num_memory_heads": 4, "bottleneck_size": 64}


@dataclass(frozen=True)
class Shape:
    """A shape of model and batch; `memory` holds settings of the workspace that are not the defaults."""

    width: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    batch_size: int
    memory: dict[str, int] = field(default_factory=dict)

    def make_fields(self) -> dict[str, Any]:
        """Return the fields of an `AiTConfig`; the MLP is four times as wide as the tokens."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_labels": 10,
            **self.memory,
        }


SHAPES = {
    "width_64": Shape(64, 2, 4, 32, 8, 128, NARROW_MEMORY),
    "width_64_wide_memory": Shape(64, 2, 4, 32, 8, 128),
    "width_128": Shape(128, 2, 4, 32, 4, 128),
    "width_192": Shape(192, 12, 3, 32, 4, 32),
    "width_192_224px": Shape(192, 12, 3, 224, 16, 16),
    "small": Shape(768, 2, 12, 32, 4, 128),
    "medium": Shape(768, 6, 12, 32, 4, 128),
    "base": Shape(768, 12, 12, 32, 4, 128),
}


@dataclass
class BenchmarkArguments:
    shapes: list[str] = field(default_factory=lambda: ["small"], metadata={"help": f"Shapes: {', '.join(SHAPES)}."})
    models: list[str] = field(
        default_factory=lambda: ["ait"], metadata={"help": f"Models to hold against the {REFERENCE}."}
    )
    batch_size: int | None = field(default=None, metadata={"help": "Images per batch. Default: the shape's own."})
    num_rounds: int = field(default=20, metadata={"help": "Timed rounds, each of which runs all models."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: PyTorch's choice."})
    device: str = field(default="cpu", metadata={"help": "Device, for instance cpu or cuda."})
    use_bf16: bool = field(default=False, metadata={"help": "Run under bfloat16 autocast."})
    compile: bool = field(default=False, metadata={"help": "Compile the models with torch.compile."})
    write_tokens: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of tokens to measure the write alone at."}
    )
    write_width: int = field(default=192, metadata={"help": "Width of the tokens of the write alone."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and images."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to."})

    def __post_init__(self) -> None:
        for values, known, what in ((self.shapes, SHAPES, "shape"), (self.models, ARCHITECTURES, "model")):
            for value in values:
                refuse_unknown_name(value, known, what)
        if self.num_rounds < 2:
            raise InputError(f"`--num_rounds` must be at least 2, to give a spread, but got {self.num_rounds}.")
        for name in ("batch_size", "num_threads", "write_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"`--{name}` must be at least 1, but got {value}.")
        if min(self.write_tokens, default=2) < 2:
            raise InputError(f"`--write_tokens` must be at least 2, but got {min(self.write_tokens)}.")
        if not self.shapes and not self.write_tokens:
            raise InputError("Nothing to measure: name at least one of `--shapes`, or `--write_tokens`.")


def measure_shape(shape: Shape, models: list[str], setting: "CostSetting", num_rounds: int) -> dict[str, Any]:
    """Measure all models in both modes: for each, medians and its ratios to the reference."""
    from examples.baselines.build import build_architecture, count_parameters
    from examples.training.cost import MODES, measure_peak_memory, time_rounds
    from modeling_ait import AiTConfig

    config = AiTConfig(**shape.make_fields())
    builders = {name: partial(build_architecture, name, config, match_parameters=False) for name in models}
    results: dict[str, Any] = {"num_parameters": {name: count_parameters(build()) for name, build in builders.items()}}
    # All of the memory before the first timing, which raises the mark that later processes start from.
    memory = {mode: {name: measure_peak_memory(builders[name], mode, setting) for name in models} for mode in MODES}
    for mode in MODES:
        seconds = time_rounds(builders, mode, setting, num_rounds)
        results[mode] = {}
        for name in models:
            ratios = [one / other for one, other in zip(seconds[name], seconds[REFERENCE])]
            low, median, high = statistics.quantiles(ratios, n=4)
            results[mode][name] = {
                "seconds": statistics.median(seconds[name]),
                "time_ratio": median,
                "time_ratio_quartiles": [low, high],
                "peak_memory_mib": memory[mode][name],
                "memory_ratio": memory[mode][name] / memory[mode][REFERENCE],
            }
    return results


def measure_write(num_tokens: int, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Time of one layer's write, forward and backward, and what it keeps for the backward pass beyond the tokens."""
    import torch

    from modeling_ait import AiTConfig
    from modeling_ait.workspace_ait import AiTMemoryWrite

    torch.manual_seed(arguments.seed)
    width, device = arguments.write_width, torch.device(arguments.device)
    config = AiTConfig(hidden_size=width, num_attention_heads=1)
    write = AiTMemoryWrite(config).to(device)
    memory = torch.randn(config.num_memory_slots, config.memory_slot_size, device=device)
    tokens = torch.randn(1, num_tokens, width, device=device, requires_grad=True)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    seconds = []
    for _ in range(arguments.num_rounds + 2):
        kept.clear()
        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            new_memory, balance_loss, _ = write(memory, tokens)
        (new_memory.sum() + balance_loss).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    kept.pop(tokens.untyped_storage().data_ptr(), None)
    low, median, high = statistics.quantiles(seconds[2:], n=4)
    microseconds = [1e6 * value / num_tokens for value in (low, median, high)]
    return {
        "width": width,
        "num_tokens": num_tokens,
        "microseconds_per_token": microseconds[1],
        "microseconds_per_token_quartiles": [microseconds[0], microseconds[2]],
        "kept_memory_mib": sum(kept.values()) / 2**20,
    }


def run(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Measure all that the arguments name; return the results with all that is needed to repeat them."""
    import torch

    from examples.training.cost import MODES, CostSetting, check_device
    from examples.training.results import describe_command, describe_setting

    check_device(arguments.device)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    models = list(dict.fromkeys([*arguments.models, REFERENCE]))
    shapes, writes = {}, []
    num_tasks = len(arguments.shapes) + len(arguments.write_tokens)
    for number, name in enumerate(arguments.shapes, start=1):
        print(f"{number} of {num_tasks}: {name}", flush=True)
        setting = CostSetting(
            arguments.batch_size or SHAPES[name].batch_size,
            arguments.device,
            arguments.use_bf16,
            arguments.seed,
            arguments.compile,
            arguments.num_threads,
        )
        shapes[name] = measure_shape(SHAPES[name], models, setting, arguments.num_rounds)
        for mode in MODES:
            for model, cost in shapes[name][mode].items():
                low, high = cost["time_ratio_quartiles"]
                print(
                    f"  {mode}, {model}: {1000 * cost['seconds']:.1f} ms, {cost['time_ratio']:.3f} times the "
                    f"{REFERENCE}'s ({low:.3f} to {high:.3f}), {cost['peak_memory_mib']:.0f} MiB "
                    f"({cost['memory_ratio']:.3f})"
                )
    for number, num_tokens in enumerate(arguments.write_tokens, start=len(arguments.shapes) + 1):
        print(f"{number} of {num_tasks}: the write of {num_tokens} tokens", flush=True)
        writes.append(measure_write(num_tokens, arguments))
        print(
            f"  {writes[-1]['microseconds_per_token']:.2f} microseconds per token, "
            f"{writes[-1]['kept_memory_mib']:.1f} MiB kept for the backward pass"
        )
    use_cpu = not arguments.device.startswith("cuda")
    head = describe_setting("benchmark", describe_command("examples.benchmark"), [arguments.seed], use_cpu)
    return {**head, "setting": asdict(arguments), "shapes": shapes, "write": writes}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(BenchmarkArguments, prog="python -m examples.benchmark", description=__doc__)
    (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
    output = None if arguments.output is None else make_place(arguments.output)
    results = run(arguments)
    if output is not None:
        # Late, like all that imports torch.
        from examples.training.results import write_json

        write_json(output, results)


if __name__ == "__main__":
    run_script(main)
