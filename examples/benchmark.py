"""
Time and peak memory of a training step and of inference: AiT against transformers' ViT of the same depth.

    python -m examples.benchmark --size small --batch_size 32 --output examples/results/benchmark_small_cpu.json

Both models run in turn, round by round, in one process, and the ratio of each round is taken: a machine that slows
down slows both. Peak memory is taken in a fresh process for each model and mode.
"""

import statistics
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from examples.training.cost import Builder


@dataclass
class BenchmarkArguments:
    size: str = field(default="small", metadata={"help": "Paper size of the AiT: small, medium or base."})
    batch_size: int = field(default=32, metadata={"help": "Images per batch."})
    image_size: int = field(default=32, metadata={"help": "Image side, in pixels."})
    patch_size: int = field(default=4, metadata={"help": "Patch side, in pixels."})
    num_rounds: int = field(default=30, metadata={"help": "Timed rounds, each of which runs both models."})
    device: str = field(default="cpu", metadata={"help": "Device, for instance cpu or cuda."})
    use_bf16: bool = field(default=False, metadata={"help": "Run under bfloat16 autocast."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and images."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to."})


MODELS = ("ait", "vit")


def make_builders(arguments: BenchmarkArguments) -> dict[str, "Builder"]:
    """The AiT, and a ViT of the same depth, width, heads and MLP."""
    from examples.baselines.build import build_architecture
    from modeling_ait import AiTConfig

    sizes = {"image_size": arguments.image_size, "patch_size": arguments.patch_size}
    try:
        config = AiTConfig.from_size(arguments.size, **sizes, num_labels=10)
    except ValueError as error:
        raise InputError(str(error)) from error
    return {name: partial(build_architecture, name, config, match_parameters=False) for name in MODELS}


def run(arguments: BenchmarkArguments) -> dict:
    """Measure both modes and return the results with all that is needed to repeat them."""
    from examples.baselines.build import count_parameters
    from examples.training.cost import MODES, CostSetting, check_device, measure_peak_memory, time_rounds
    from examples.training.results import describe_command, describe_setting

    check_device(arguments.device)
    results: dict = {}
    builders = make_builders(arguments)
    setting = CostSetting(arguments.batch_size, arguments.device, arguments.use_bf16, arguments.seed)
    memory, tasks = {}, [(mode, name) for mode in MODES for name in MODELS]
    for number, (mode, name) in enumerate(tasks, start=1):
        print(f"{number} of {len(tasks) + len(MODES)}: peak memory of {name} in {mode}", flush=True)
        memory[mode, name] = measure_peak_memory(builders[name], mode, setting)
    for number, mode in enumerate(MODES, start=len(tasks) + 1):
        rounds = f"{arguments.num_rounds} rounds of {' and '.join(MODELS)}"
        print(f"{number} of {len(tasks) + len(MODES)}: time of {mode}, {rounds}", flush=True)
        seconds = time_rounds(builders, mode, setting, arguments.num_rounds)
        low, median, high = statistics.quantiles([a / v for a, v in zip(seconds["ait"], seconds["vit"])], n=4)
        results[mode] = {"time_ratio_median": median, "time_ratio_quartiles": [low, high]}
        for name in MODELS:
            results[mode][f"{name}_seconds_median"] = statistics.median(seconds[name])
            results[mode][f"{name}_peak_memory_mib"] = memory[mode, name]
        results[mode]["memory_ratio"] = results[mode]["ait_peak_memory_mib"] / results[mode]["vit_peak_memory_mib"]
    for name in MODELS:
        results[f"{name}_num_parameters"] = count_parameters(builders[name]())
    use_cpu = not arguments.device.startswith("cuda")
    head = describe_setting("benchmark", describe_command("examples.benchmark"), [arguments.seed], use_cpu)
    return {**head, "arguments": asdict(arguments), **results}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(BenchmarkArguments, prog="python -m examples.benchmark", description=__doc__)
    (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
    if arguments.num_rounds < 2:
        raise InputError(f"`--num_rounds` must be at least 2, to give a spread, but got {arguments.num_rounds}.")
    for name in ("batch_size", "image_size", "patch_size"):
        if getattr(arguments, name) < 1:
            raise InputError(f"`--{name}` must be at least 1, but got {getattr(arguments, name)}.")
    output = None if arguments.output is None else make_place(arguments.output)
    results = run(arguments)
    # Late, like all that imports torch.
    from examples.training.cost import MODES
    from examples.training.results import write_json

    for mode in MODES:
        low, high = results[mode]["time_ratio_quartiles"]
        print(
            f"{mode}: time AiT / ViT {results[mode]['time_ratio_median']:.3f} (quartiles {low:.3f} to {high:.3f}), "
            f"peak memory AiT / ViT {results[mode]['memory_ratio']:.3f} "
            f"({results[mode]['ait_peak_memory_mib']:.0f} / {results[mode]['vit_peak_memory_mib']:.0f} MiB)"
        )
    if output is not None:
        write_json(output, results)


if __name__ == "__main__":
    run_script(main)
