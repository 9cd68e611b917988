"""Training a tiny model on several processes, for the tests of the exchange between them."""

import faulthandler
import os
import traceback
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning
from tests.conftest import TINY
from tests.examples.helpers import find_free_port, get_context


SHARED = {**TINY, "balance_loss_coef": 0.5}
NUM_STEPS, NUM_IMAGES = 3, 12
# Images of each process, for every number of them.
EQUAL = {1: [12], 2: [6, 6], 3: [4, 4, 4], 4: [3, 3, 3, 3]}
UNEQUAL = {1: [12], 2: [10, 2], 3: [1, 8, 3], 4: [5, 1, 2, 4]}


@dataclass
class Setting:
    """What a training of three steps is made of."""

    config: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=lambda: EQUAL)
    checkpointing: bool = False
    num_micro_batches: int = 1
    wrapper: str = "ddp"
    duplicated: bool = False
    num_questions: int = 0
    bad_process: int | None = None
    compiled: bool = False
    autocast: bool = False


SETTINGS = {
    "equal batches": Setting(),
    "unequal batches": Setting(sizes=UNEQUAL),
    "bottleneck larger than a batch": Setting({"bottleneck_size": 40}, UNEQUAL),
    "bottleneck larger than all batches": Setting({"bottleneck_size": 100}, UNEQUAL),
    "no bottleneck": Setting({"bottleneck_size": None}, UNEQUAL),
    "duplicated images": Setting(duplicated=True),
    "activation checkpointing": Setting(checkpointing=True),
    "gradient accumulation": Setting(num_micro_batches=2),
    "detached write": Setting({"differentiable_write": False}),
    "detached write, unequal": Setting({"differentiable_write": False}, UNEQUAL),
    "questions": Setting({"question_size": 6}),
    "independent questions": Setting(
        {"question_size": 6, "question_attention": "independent", "pooling": "question"}, num_questions=2
    ),
    "FSDP2": Setting(wrapper="fsdp"),
    "FSDP2 with checkpointing": Setting(wrapper="fsdp", checkpointing=True, sizes=UNEQUAL),
    "compiled": Setting(compiled=True),
    "bfloat16": Setting(autocast=True),
    "dropout": Setting({"memory_dropout_prob": 0.5}),
    "dropout with checkpointing": Setting({"memory_dropout_prob": 0.5}, checkpointing=True),
    "not finite": Setting(bad_process=0),
    "apart": Setting({"synchronize_memory": False}),
}


def draw_batch(setting: Setting, step: int, micro_batch: int):
    """The whole batch of a step, the same on every process."""
    generator = torch.Generator().manual_seed(10 * step + micro_batch)
    images = torch.randn(NUM_IMAGES, 3, 8, 12, generator=generator)
    if setting.duplicated:
        images = images[:2].repeat(NUM_IMAGES // 2, 1, 1, 1)
    batch = {"pixel_values": images, "labels": torch.randint(3, (NUM_IMAGES,), generator=generator)}
    if "question_size" in setting.config:
        shape = (NUM_IMAGES, setting.num_questions) if setting.num_questions else (NUM_IMAGES,)
        batch["question"] = torch.randn(*shape, 6, generator=generator)
        batch["labels"] = torch.randint(3, shape, generator=generator)
    return batch


def make_model(setting: Setting) -> AiTForImageClassification | AiTForRelationalReasoning:
    torch.manual_seed(0)
    model_class = AiTForRelationalReasoning if "question_size" in setting.config else AiTForImageClassification
    model = model_class(AiTConfig(**{**SHARED, **setting.config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    if setting.checkpointing:
        # Newer versions of transformers have renamed it.
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    return model.train()


def wrap(model: nn.Module, setting: Setting, num_processes: int) -> nn.Module:
    if num_processes > 1 and setting.wrapper == "fsdp":
        for layer in model.ait.layers:
            fully_shard(layer)
        model = fully_shard(model)
    elif num_processes > 1:
        unused = setting.config.get("differentiable_write") is False
        model = DistributedDataParallel(model, find_unused_parameters=unused)
    # The graphs take most of the time of these tests: once is enough.
    return torch.compile(model, backend="aot_eager") if setting.compiled and num_processes == 2 else model


def train(setting: Setting, rank: int, num_processes: int) -> dict:
    """Three steps; returns losses, memories, gradients and weights after each."""
    model = make_model(setting)
    wrapped = wrap(model, setting, num_processes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    # As different as the random states of processes are.
    torch.manual_seed(100 + rank)
    sizes = setting.sizes[num_processes]
    start = sum(sizes[:rank])
    taken: dict = {"balance_loss": [], "memories": [], "gradients": [], "weights": [], "task_loss": []}
    for step in range(NUM_STEPS):
        for micro_batch in range(setting.num_micro_batches):
            batch = draw_batch(setting, step, micro_batch)
            num_labels = batch["labels"].numel()
            batch = {name: tensor[start : start + sizes[rank]] for name, tensor in batch.items()}
            if setting.bad_process == rank and num_processes > 1 and step == 1:
                batch["pixel_values"][0, 0, 0, 0] = torch.nan
            is_last = micro_batch == setting.num_micro_batches - 1
            context = nullcontext() if is_last or num_processes == 1 else wrapped.no_sync()
            with ExitStack() as stack:
                stack.enter_context(context)
                if setting.autocast:
                    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
                outputs = wrapped(**{name: tensor for name, tensor in batch.items() if name != "labels"})
                logits = outputs.logits.flatten(0, -2).float()
                # A share of the mean over all processes' samples; data-parallel training divides by the processes.
                task = nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
                task = task * num_processes / num_labels
                loss = (task + 0.5 * outputs.balance_loss) / setting.num_micro_batches
                loss.backward()
        taken["balance_loss"].append(outputs.balance_loss.detach().clone())
        taken["task_loss"].append(task.detach().clone())
        taken["memories"].append([memory.clone() for memory in model.ait.memories])
        taken["gradients"].append({n: gather(p.grad) for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
        taken["weights"].append({name: gather(parameter) for name, parameter in model.named_parameters()})
    return taken


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """A plain tensor of what may be sharded."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def evaluate_alone(rank: int) -> list[torch.Tensor]:
    """One process evaluates, with a write, while the others do something else."""
    model = make_model(Setting()).eval()
    if rank == 0:
        with torch.no_grad():
            model(draw_batch(Setting(), 0, 0)["pixel_values"], update_memory=True)
    return [memory.clone() for memory in model.ait.memories]


def join(rank: int, num_processes: int, port: int, seconds: float) -> None:
    """Become one of the processes."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=num_processes,
        timeout=timedelta(seconds=seconds),
    )


def run_rank(function, rank, num_processes, port, file, seconds) -> None:
    """Call a function as one of several processes, and save what it returns, or how it failed."""
    # A process that the system ends says where it was.
    faulthandler.enable()
    try:
        join(rank, num_processes, port, seconds)
        torch.save(function(rank, num_processes), file)
    except Exception:
        file.with_suffix(".error").write_text(traceback.format_exc())
        # At once, as a process that fails ends: its connections close, and nothing waits for the others.
        os._exit(1)
    distributed.destroy_process_group()


def train_all(rank: int, num_processes: int) -> dict:
    """Train in every setting."""
    return {
        "alone": evaluate_alone(rank),
        **{name: train(setting, rank, num_processes) for name, setting in SETTINGS.items()},
    }


def run_on_processes(function, num_processes, folder, seconds=60, limit=240):
    """Call a function on several processes; return their exit codes, what they returned and how they failed."""
    port = find_free_port()
    files = [folder / f"{rank}.pt" for rank in range(num_processes)]
    start = partial(get_context("tests.processes").Process, target=run_rank)
    processes = [start(args=(function, rank, num_processes, port, file, seconds)) for rank, file in enumerate(files)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(limit)
    finally:
        for process in processes:
            process.kill()
            process.join()
    results = [torch.load(file, weights_only=True) if file.exists() else None for file in files]
    errors = [file.with_suffix(".error") for file in files]
    return (
        [process.exitcode for process in processes],
        results,
        [error.read_text() if error.exists() else "" for error in errors],
    )
