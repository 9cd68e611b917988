"""
Time and memory of a training step and of inference, by shape: AiT against transformers' ViT of the same shape.

    python -m examples.benchmark --shapes small width_64 --output examples/results/benchmark_cpu.json
    python -m examples.benchmark --write_tokens 4096 16384 65536
    python -m examples.benchmark --suite --device cuda --output examples/results/benchmark_gpu.json
    python -m examples.benchmark --shapes small --official path/to/associative-transformer

All models run in turn, round by round, in one process, and the ratio of each round is taken: a machine that slows
down slows all. Peak memory on a CPU is taken in a fresh process for each model and mode. `--write_tokens` measures the
write into the memory alone, forward and backward, by the number of tokens that compete. `--suite` measures what a GPU
is asked: both modes in bfloat16, compiled and not, images per second from data, and memory by batch size up to the
card. `--output` writes JSON, and charts beside it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.baselines.catalog import ARCHITECTURES
from examples.benchmarking.shapes import REFERENCE, SHAPES
from examples.errors import InputError, make_place, refuse_unknown_name, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from examples.training.cost import CostSetting


MODES = ("training", "inference")
DTYPES = ("float32", "bfloat16")
CLOCKS = ("wall", "cpu")
WITHOUT_SUITE = ("dtype", "compile", "modes", "clock", "write_tokens")
ONLY_OF_SUITE = ("minutes", "dataset_name", "num_images", "num_workers", "largest_batch_size")


@dataclass
class BenchmarkArguments:
    shapes: list[str] | None = field(
        default=None,
        metadata={"help": f"Shapes: {', '.join(SHAPES)}. Default: small, or with `--write_tokens` none."},
    )
    models: list[str] = field(
        default_factory=lambda: ["ait"],
        metadata={"help": f"Models to hold against the {REFERENCE}: {', '.join(ARCHITECTURES)}."},
    )
    official: str | None = field(
        default=None,
        metadata={"help": "Checkout of the official code, whose model is measured too. Its Python is executed."},
    )
    modes: list[str] = field(default_factory=lambda: [*MODES], metadata={"help": f"Modes: {', '.join(MODES)}."})
    batch_size: int | None = field(default=None, metadata={"help": "Images per batch. Default: the shape's own."})
    num_rounds: int = field(default=20, metadata={"help": "Timed rounds, each of which runs all models."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: PyTorch's choice."})
    clock: str = field(
        default="wall",
        metadata={"help": "wall, or cpu: the seconds that the process computed, for a machine that others share."},
    )
    device: str = field(default="cpu", metadata={"help": "Device, for instance cpu or cuda."})
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16: by autocast."})
    compile: bool = field(default=False, metadata={"help": "Compile the models with torch.compile."})
    write_tokens: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of tokens to measure the write alone at."}
    )
    write_width: int = field(default=192, metadata={"help": "Width of the tokens of the write alone."})
    suite: bool = field(
        default=False, metadata={"help": "Run the suite, in bfloat16, compiled and not, within `--minutes`."}
    )
    minutes: float = field(default=8.0, metadata={"help": "Minutes after which the suite starts nothing more."})
    dataset_name: str = field(default="triangle", metadata={"help": "Data of the suite's images per second."})
    num_images: int = field(default=8192, metadata={"help": "Images of it, at most."})
    num_workers: int = field(
        default_factory=lambda: min(8, (os.cpu_count() or 1) - 1), metadata={"help": "Processes that load them."}
    )
    largest_batch_size: int = field(
        default=2**16, metadata={"help": "Batch size at which the suite stops, if the memory does not."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights and images."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to, with charts."})

    def __post_init__(self) -> None:
        if self.shapes is None:
            self.shapes = [] if self.write_tokens else ["small"]
        named = ((self.shapes, SHAPES, "shape"), (self.models, ARCHITECTURES, "model"), (self.modes, MODES, "mode"))
        single = (([self.dtype], DTYPES, "dtype"), ([self.clock], CLOCKS, "clock"))
        for values, known, what in (*named, *single):
            for value in values:
                refuse_unknown_name(value, known, what)
        if self.num_rounds < 2:
            raise InputError(f"`--num_rounds` must be at least 2, to give a spread, but got {self.num_rounds}.")
        for name in ("batch_size", "num_threads", "write_width", "num_images", "largest_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"`--{name}` must be at least 1, but got {value}.")
        if self.num_workers < 0:
            raise InputError(f"`--num_workers` must be at least 0, but got {self.num_workers}.")
        if not self.minutes > 0:
            raise InputError(f"`--minutes` must be above 0, but got {self.minutes}.")
        if min(self.write_tokens, default=2) < 2:
            raise InputError(f"`--write_tokens` must be at least 2, but got {min(self.write_tokens)}.")
        if self.clock == "cpu" and self.device.startswith("cuda"):
            raise InputError("`--clock cpu` does not tell what a GPU computes: leave it out.")
        for name in WITHOUT_SUITE if self.suite else ONLY_OF_SUITE:
            if getattr(self, name) != self.get_default(name):
                reason = "the suite chooses it" if self.suite else "it is of the suite: add `--suite`"
                raise InputError(f"`--{name}` has no effect here: {reason}, or leave it out.")

    @classmethod
    def get_default(cls, name: str) -> Any:
        """The default of an argument."""
        (found,) = (argument for argument in fields(cls) if argument.name == name)
        return found.default if found.default_factory is MISSING else found.default_factory()

    def make_setting(self, shape: str) -> "CostSetting":
        """How to measure a shape."""
        from examples.training.cost import CostSetting

        return CostSetting(
            self.batch_size or SHAPES[shape].batch_size,
            self.device,
            self.dtype == "bfloat16",
            self.seed,
            self.compile,
            self.num_threads,
            self.clock,
        )


def measure(arguments: BenchmarkArguments) -> Iterator[dict[str, Any]]:
    """Measure the shapes and the write; yield all that there is so far after each."""
    from examples.benchmarking.measuring import describe_costs, measure_shape, measure_write

    models = list(dict.fromkeys([*arguments.models, REFERENCE]))
    names = arguments.shapes or []
    shapes: dict[str, Any] = {}
    writes: list[dict[str, Any]] = []
    num_tasks = len(names) + len(arguments.write_tokens)
    for number, name in enumerate(names, start=1):
        print(f"{number} of {num_tasks}: {name}", flush=True)
        shapes[name] = measure_shape(
            SHAPES[name],
            models,
            arguments.make_setting(name),
            arguments.num_rounds,
            arguments.modes,
            arguments.official,
        )
        print(*describe_costs(shapes[name]), sep="\n", flush=True)
        yield {"shapes": shapes, "write": writes}
    for number, num_tokens in enumerate(arguments.write_tokens, start=len(names) + 1):
        print(f"{number} of {num_tasks}: the write of {num_tokens} tokens", flush=True)
        writes.append(
            measure_write(num_tokens, arguments.write_width, arguments.num_rounds, arguments.make_setting("small"))
        )
        print(
            f"  {writes[-1]['microseconds_per_token']:.2f} microseconds per token, "
            f"{writes[-1]['kept_memory_mib']:.1f} MiB kept for the backward pass",
            flush=True,
        )
        yield {"shapes": shapes, "write": writes}


def measure_suite(arguments: BenchmarkArguments) -> Iterator[dict[str, Any]]:
    """Run the suite; yield all that there is so far after each measurement."""
    from examples.benchmarking.suite import Suite, run_suite

    names = arguments.shapes or []
    suite = Suite(
        shapes={name: SHAPES[name] for name in names},
        models=list(dict.fromkeys([*arguments.models, REFERENCE])),
        setting=arguments.make_setting(names[0]),
        num_rounds=arguments.num_rounds,
        deadline=time.monotonic() + 60 * arguments.minutes,
        dataset_name=arguments.dataset_name,
        num_images=arguments.num_images,
        num_workers=arguments.num_workers,
        largest_batch_size=arguments.largest_batch_size,
        batch_size=arguments.batch_size,
        official=arguments.official,
    )
    for measured in run_suite(suite):
        yield {"shapes": {}, "write": [], "suite": measured}


def run(arguments: BenchmarkArguments, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure all that the arguments name; save it, with all that is needed to repeat it, after each measurement."""
    import torch

    from examples.training.cost import check_device
    from examples.training.results import describe_command, describe_setting

    check_device(arguments.device)
    if arguments.official is not None:
        from examples.benchmarking.official import find_checkout

        find_checkout(arguments.official)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    use_cpu = not arguments.device.startswith("cuda")
    head = describe_setting("benchmark", describe_command("examples.benchmark"), [arguments.seed], use_cpu)
    for measured in measure_suite(arguments) if arguments.suite else measure(arguments):
        save({**head, "setting": asdict(arguments), **measured})


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(BenchmarkArguments, prog="python -m examples.benchmark", description=__doc__)
    (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
    output = None if arguments.output is None else make_place(arguments.output, "benchmark")

    def save(results: dict[str, Any]) -> None:
        if output is None:
            return
        # Late, like all that imports torch.
        from examples.benchmarking.charts import draw_benchmark
        from examples.training.results import write_json
        from modeling_ait.saving_ait import stage_files

        with stage_files(output.parent) as staging:
            draw_benchmark(results, Path(staging), output.stem)
        # Last: where it is, the charts are.
        write_json(output, results)

    run(arguments, save)


if __name__ == "__main__":
    run_script(main)
