"""
Time and peak memory of a training step and of inference: AiT against transformers' ViT of the same depth.

    python -m examples.benchmark --size small --batch_size 32 --output examples/results/benchmark_small_cpu.json

Both models run in turn, round by round, in one process, and the ratio of each round is taken: a machine that slows
down slows both. Peak memory is taken in a fresh process for each model and mode.
"""

import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import HfArgumentParser, ViTConfig, ViTForImageClassification

import modeling_ait
from modeling_ait import AiTConfig, AiTForImageClassification


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
MODES = ("training", "inference")


def build_model(name: str, arguments: BenchmarkArguments) -> torch.nn.Module:
    """Build the AiT, or a ViT of the same depth, width, heads and MLP."""
    config = AiTConfig.from_size(
        arguments.size, image_size=arguments.image_size, patch_size=arguments.patch_size, num_labels=10
    )
    if name == "ait":
        return AiTForImageClassification(config)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            image_size=arguments.image_size,
            patch_size=arguments.patch_size,
            id2label=config.id2label,
        )
    )


def make_step(name: str, mode: str, arguments: BenchmarkArguments) -> Callable[[], None]:
    """Prepare a model and return the function that runs it once: forward, backward and AdamW, or forward only."""
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    model = build_model(name, arguments).to(device).train(mode == "training")
    images = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size, device=device)
    labels = torch.randint(0, 10, (arguments.batch_size,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4) if mode == "training" else None

    def step():
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=arguments.use_bf16):
            if optimizer is None:
                with torch.inference_mode():
                    model(pixel_values=images)
            else:
                loss = model(pixel_values=images, labels=labels).loss
        if optimizer is not None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def time_mode(mode: str, arguments: BenchmarkArguments) -> dict:
    """Run both models in turn and return seconds and ratios."""
    steps = {name: make_step(name, mode, arguments) for name in MODELS}
    for step in steps.values():
        for _ in range(3):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    for round_index in range(arguments.num_rounds):
        # The order alternates, because the first of a round finds other caches than the second.
        for name in MODELS if round_index % 2 else reversed(MODELS):
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    ratios = [ait / vit for ait, vit in zip(seconds["ait"], seconds["vit"])]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "ait_seconds_median": statistics.median(seconds["ait"]),
        "vit_seconds_median": statistics.median(seconds["vit"]),
        "time_ratio_median": median,
        "time_ratio_quartiles": [low, high],
    }


def measure_peak_memory(name: str, mode: str, arguments: BenchmarkArguments, connection) -> None:
    """Send the peak memory of three steps, in MiB, over what the process held before it built the model."""
    if arguments.device.startswith("cuda"):
        step = make_step(name, mode, arguments)
        for _ in range(3):
            step()
        connection.send(torch.cuda.max_memory_allocated() / 2**20)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make_step(name, mode, arguments)
    for _ in range(3):
        step()
    connection.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)


def measure_in_fresh_process(name: str, mode: str, arguments: BenchmarkArguments) -> float:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure_peak_memory, args=(name, mode, arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"The process that measures the memory of {name} in {mode} died.") from None
    finally:
        process.join()


def run(arguments: BenchmarkArguments) -> dict:
    """Measure both modes and return the results with all that is needed to repeat them."""
    results: dict = {}
    # Memory first: a child process starts with the high-water mark of its parent.
    memory = {(mode, name): measure_in_fresh_process(name, mode, arguments) for mode in MODES for name in MODELS}
    for mode in MODES:
        results[mode] = time_mode(mode, arguments)
        for name in MODELS:
            results[mode][f"{name}_peak_memory_mib"] = memory[mode, name]
        results[mode]["memory_ratio"] = results[mode]["ait_peak_memory_mib"] / results[mode]["vit_peak_memory_mib"]
    for name in MODELS:
        results[f"{name}_num_parameters"] = sum(p.numel() for p in build_model(name, arguments).parameters())
    device_name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine()
    results["setting"] = {
        "command": shlex.join(["python", "-m", "examples.benchmark", *sys.argv[1:]]),
        "arguments": asdict(arguments),
        "hardware": f"{device_name}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "modeling_ait": modeling_ait.__version__,
        },
    }
    return results


def main():
    parser = HfArgumentParser(BenchmarkArguments, description=__doc__)
    (arguments,) = parser.parse_args_into_dataclasses()
    if arguments.num_rounds < 2:
        parser.error(f"--num_rounds must be at least 2, to give a spread, but got {arguments.num_rounds}.")
    results = run(arguments)
    for mode in MODES:
        low, high = results[mode]["time_ratio_quartiles"]
        print(
            f"{mode}: time AiT / ViT {results[mode]['time_ratio_median']:.3f} (quartiles {low:.3f} to {high:.3f}), "
            f"peak memory AiT / ViT {results[mode]['memory_ratio']:.3f} "
            f"({results[mode]['ait_peak_memory_mib']:.0f} / {results[mode]['vit_peak_memory_mib']:.0f} MiB)"
        )
    if arguments.output is not None:
        path = Path(arguments.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            json.dump(results, file, indent=2)
        os.replace(file.name, path)


if __name__ == "__main__":
    main()
