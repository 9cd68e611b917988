"""
What the exchange between processes costs: measured on local processes, then computed for many more.

    python -m examples.scaling --num_processes 1 2 4 --output examples/results/scaling.json

Measures a training step of a small model on 1 to N local processes (gloo), with the tokens of all in one bottleneck
(`synchronize_memory`) and with a bottleneck for each: its time and its memory. The bytes that a process hands over in
each layer are counted from the shapes; tests compare them with the collectives'. Then computes the exchange of
AiT-Base on 224-pixel images for many processes, from the same bytes and from speeds that are stated, not measured.
"""

import multiprocessing
import os
import resource
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


# What a step of AiT-Base with 32 images of each process does on a processor of the stated speeds.
SIMULATED = {"image_size": 224, "patch_size": 16, "images_per_process": 32, "num_labels": 1000}
DEVICE_FLOPS, DEVICE_BYTES = 2e14, 2e12
# Bytes per second and seconds per message.
LINKS = {"10 Gb/s": (1.25e9, 3e-5), "100 Gb/s": (1.25e10, 1e-5), "400 Gb/s": (5e10, 1e-5), "NVLink": (4.5e11, 5e-6)}
NUM_SIMULATED = (2, 4, 8, 16, 32, 64, 128, 256, 512)
# Times that a process reads or writes what it has gathered: to put it in order and find the largest 3, to select by
# digits 4, to compare, count and mark the equal ones 5.
NUM_READS = 12


@dataclass
class ScalingArguments:
    num_processes: list[int] = field(default_factory=lambda: [1, 2, 4], metadata={"help": "Numbers of processes."})
    images_per_process: int = field(default=16, metadata={"help": "Images in the batch of each process."})
    num_steps: int = field(default=10, metadata={"help": "Timed steps of each setting, after two that are not."})
    num_threads: int = field(default=1, metadata={"help": "CPU threads of each process."})
    timeout: int = field(default=300, metadata={"help": "Seconds that a process waits for the others."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; a chart is drawn beside it."})

    def __post_init__(self):
        for name in ("images_per_process", "num_steps", "num_threads", "timeout"):
            if getattr(self, name) < 1:
                raise InputError(f"`--{name}` must be at least 1, but got {getattr(self, name)}.")
        if not self.num_processes or min(self.num_processes) < 1:
            raise InputError(f"`--num_processes` takes numbers from 1, but got {self.num_processes}.")
        if self.output and not self.output.endswith(".json"):
            raise InputError(f"`--output` takes a JSON file, but got {self.output!r}.")


def count_exchanged(config, num_processes: int) -> dict[str, int]:
    """
    Bytes of one layer's collectives in a step, forward and backward, that a process hands over.

    The logits that can still win are gathered, once; the values with their weights and the squares of the balance loss
    are summed, and their gradients too. Without `synchronize_memory` the new memories alone are, once.
    """
    if num_processes == 1:
        return {"gathered": 0, "summed": 0}
    num_heads, num_slots, slot_size = config.num_memory_heads, config.num_memory_slots, config.memory_slot_size
    if not config.synchronize_memory:
        return {"gathered": 0, "summed": 4 * num_slots * slot_size}
    summed = num_slots * num_heads * slot_size + num_heads * num_slots + 1 + num_slots * slot_size + 2
    return {"gathered": 4 * num_heads * num_slots * (config.bottleneck_size or 1), "summed": 2 * 4 * summed}


def measure_rank(rank: int, num_processes: int, port: int, synchronize: bool, arguments: ScalingArguments, queue):
    """Train as one of several processes; the first puts what it has measured into the queue."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from modeling_ait import AiTConfig, AiTForImageClassification

    torch.set_num_threads(arguments.num_threads)
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=num_processes,
        timeout=timedelta(seconds=arguments.timeout),
    )
    torch.manual_seed(0)
    config = AiTConfig(  # type: ignore[call-arg]  # `num_labels` is the base class's
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=32,
        patch_size=4,
        num_labels=10,
        synchronize_memory=synchronize,
    )
    model = AiTForImageClassification(config).train()
    wrapped = DistributedDataParallel(model) if num_processes > 1 else model
    optimizer = torch.optim.AdamW(model.parameters())
    torch.manual_seed(rank)
    images = torch.rand(arguments.images_per_process, 3, 32, 32)
    labels = torch.randint(10, (arguments.images_per_process,))
    wall, cpu = [], []
    for _ in range(arguments.num_steps + 2):
        if num_processes > 1:
            distributed.barrier()
        start = time.perf_counter(), time.process_time()
        wrapped(images, labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    if rank == 0:
        measured: dict[str, Any] = {"num_processes": num_processes, "synchronize_memory": synchronize}
        exchanged = count_exchanged(config, num_processes)
        measured |= {"bytes_per_layer": sum(exchanged.values()), "step_seconds": statistics.median(wall[2:])}
        measured |= {"cpu_seconds": statistics.median(cpu[2:])}
        # Kibibytes on Linux.
        measured["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        queue.put(measured)
    distributed.destroy_process_group()


def measure(num_processes: int, synchronize: bool, arguments: ScalingArguments) -> dict[str, Any]:
    """
    Measure training steps on local processes.

    Raises:
        InputError: if a process fails or does not end; none is left behind.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=measure_rank, args=(rank, num_processes, port, synchronize, arguments, queue))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(arguments.timeout)
        codes = [process.exitcode for process in processes]
        # `None` is of a process that has not ended.
        if codes != [0] * num_processes:
            raise InputError(f"{num_processes} processes did not all end well: exit codes {codes}.")
        return queue.get(timeout=arguments.timeout)
    finally:
        for process in processes:
            process.kill()
            process.join()


def simulate(num_processes: int, link: str) -> dict[str, Any]:
    """Seconds of AiT-Base's step and of the exchange in it, for a number of processes and a link that are stated."""
    from modeling_ait import AiTConfig

    config = AiTConfig.from_size("base", image_size=SIMULATED["image_size"], patch_size=SIMULATED["patch_size"])
    bytes_per_second, latency = LINKS[link]
    exchanged = count_exchanged(config, num_processes)
    num_tokens = (SIMULATED["image_size"] // SIMULATED["patch_size"]) ** 2
    width, mlp = config.hidden_size, config.intermediate_size
    flops_per_token = 2 * (4 * width**2 + 2 * width * mlp) + 4 * num_tokens * width
    computed = 3 * SIMULATED["images_per_process"] * num_tokens * flops_per_token / DEVICE_FLOPS
    # A gathering passes what each process has from one to the next; a sum by halves moves everything twice.
    gathered = exchanged["gathered"] * (num_processes - 1)
    summed = 2 * exchanged["summed"] * (num_processes - 1) / num_processes
    messages = latency * (num_processes - 1 + 4 * (num_processes - 1).bit_length())
    selected = NUM_READS * exchanged["gathered"] * num_processes / DEVICE_BYTES
    exchange = (gathered + summed) / bytes_per_second + messages + selected
    return {
        "num_processes": num_processes,
        "link": link,
        "bytes_received_per_layer": gathered + summed,
        "compute_seconds": config.num_hidden_layers * computed,
        "exchange_seconds": config.num_hidden_layers * exchange,
    }


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw the measured steps and the computed share of the exchange."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for synchronize, label in ((True, "one bottleneck"), (False, "one for each process")):
        rows = [row for row in results["measured"] if row["synchronize_memory"] == synchronize]
        seconds = [1000 * row["step_seconds"] for row in rows]
        left.plot([row["num_processes"] for row in rows], seconds, marker="o", label=label)
    left.set(xlabel="local processes", ylabel="time of a step (ms)", ylim=(0, None), title="Measured, small model")
    left.set_xticks([row["num_processes"] for row in results["measured"]])
    left.legend()
    for link in LINKS:
        rows = [row for row in results["computed"] if row["link"] == link]
        shares = [100 * row["exchange_seconds"] / row["compute_seconds"] for row in rows]
        right.plot([row["num_processes"] for row in rows], shares, marker="o", label=link)
    right.set(xscale="log", yscale="log", xlabel="processes", ylabel="exchange (% of the computation)")
    right.set(title="Computed, AiT-Base, 224 pixels")
    right.set_xticks(NUM_SIMULATED, labels=[str(number) for number in NUM_SIMULATED], minor=False)
    right.axhline(10, color="gray", linewidth=0.8, linestyle="--", label="10 %")
    right.legend(title="link (stated)")
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(ScalingArguments, prog="python -m examples.scaling", description=__doc__)
    (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
    output = None if arguments.output is None else make_place(arguments.output, "scaling")
    measured = []
    for num_processes in arguments.num_processes:
        for synchronize in (True, False):
            row = measure(num_processes, synchronize, arguments)
            measured.append(row)
            sizes = f"{row['bytes_per_layer']:,} bytes per layer, peak {row['peak_mebibytes']:.0f} MiB"
            seconds = f"step {1000 * row['step_seconds']:.0f} ms"
            print(f"{num_processes} processes, synchronize_memory {synchronize}: {seconds}, {sizes}", flush=True)
    computed = [simulate(number, link) for link in LINKS for number in NUM_SIMULATED]
    for row in computed:
        if row["num_processes"] in (8, 64, 512):
            share = 100 * row["exchange_seconds"] / row["compute_seconds"]
            print(
                f"computed: {row['num_processes']} processes, {row['link']}: exchange {share:.1f} % of the computation"
            )
    if output is not None:
        # Late, like all that imports torch.
        from examples.training.results import describe_command, describe_setting, write_json

        head = describe_setting("scaling", describe_command("examples.scaling"), [0], use_cpu=True)
        results = {**head, "images_per_process": arguments.images_per_process, "num_steps": arguments.num_steps}
        results |= {"simulated": SIMULATED, "measured": measured, "computed": computed}
        write_json(output, results)
        draw(results, output.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
