"""What a model costs: operations, time and peak memory of a training step and of inference."""

import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from examples.errors import InputError
from modeling_ait import AiTPreTrainedModel


TRAINING, INFERENCE = "training", "inference"
MODES = (TRAINING, INFERENCE)
Builder = Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class CostSetting:
    """
    How to measure.

    Args:
        batch_size: Images per batch.
        device: Device, for instance `cpu` or `cuda`.
        use_bf16: Whether to run under bfloat16 autocast.
        seed: Seed of weights and images.
        compile: Whether to compile the model.
        num_threads: CPU threads of the processes that measure memory; `None` is PyTorch's choice.
        clock: `wall`, or `cpu`: the seconds that this process computed, summed over its threads. On a machine that
            others share, only those tell what a model costs.
    """

    batch_size: int
    device: str = "cpu"
    use_bf16: bool = False
    seed: int = 0
    compile: bool = False
    num_threads: int | None = None
    clock: str = "wall"

    @property
    def read_clock(self) -> Callable[[], float]:
        """What returns the seconds."""
        return time.process_time if self.clock == "cpu" else time.perf_counter


def check_device(device: str) -> None:
    """Raise an `InputError` for a device that is not there."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise InputError(f"There is no device {device!r}: {str(error).splitlines()[0]}") from error


def choose_device(device: str | None) -> str:
    """The device that was asked for, else a GPU where there is one; see `check_device`."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    return device


def make_inputs(model: PreTrainedModel, setting: CostSetting) -> dict[str, torch.Tensor]:
    """Random images of the model's size, questions where it takes them, and labels."""
    config, device = model.config, setting.device
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    inputs = {
        "pixel_values": torch.randn(setting.batch_size, config.num_channels, height, width, device=device),
        "labels": torch.randint(0, int(config.num_labels or 1), (setting.batch_size,), device=device),
    }
    if getattr(config, "question_size", None) is not None:
        inputs["question"] = torch.rand(setting.batch_size, config.question_size, device=device)
    return inputs


def forget_compiled(setting: CostSetting) -> None:
    """Forget earlier compiled models: they share their code, and after some of them torch compiles no more."""
    if setting.compile:
        torch.compiler.reset()


def synchronize(device: str) -> None:
    """Wait until a CUDA device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def make_step(build: Builder, mode: str, setting: CostSetting) -> Callable[..., None]:
    """
    Prepare a model and return the function that runs it once: forward, backward and AdamW, or forward only.

    It takes a batch, or else its own, and does not wait for a CUDA device.
    """
    torch.manual_seed(setting.seed)
    device = torch.device(setting.device)
    model = build().train(mode == TRAINING)
    model.to(device=device)  # type: ignore[arg-type]  # the annotation of transformers hides its signature
    inputs = make_inputs(model, setting)
    if setting.compile:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True) if mode == TRAINING else None

    def step(batch: Mapping[str, torch.Tensor] = inputs) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=setting.use_bf16):
            if optimizer is None:
                with torch.inference_mode():
                    model(**{name: value for name, value in batch.items() if name != "labels"})
            else:
                loss = model(**batch).loss
        if optimizer is not None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def time_rounds(
    builders: Mapping[str, Builder], mode: str, setting: CostSetting, num_rounds: int
) -> dict[str, list[float]]:
    """Run all models in turn, round by round, so that a machine that slows down slows all; return the seconds."""
    forget_compiled(setting)
    steps = {name: make_step(build, mode, setting) for name, build in builders.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    synchronize(setting.device)
    seconds: dict[str, list[float]] = {name: [] for name in builders}
    for round_index in tqdm(range(num_rounds), desc=mode, unit="round", leave=False, disable=None):
        # The order alternates, because the first of a round finds other caches than the last.
        for name in builders if round_index % 2 else reversed(list(builders)):
            start = setting.read_clock()
            steps[name]()
            synchronize(setting.device)
            seconds[name].append(setting.read_clock() - start)
    return seconds


def read_peak_memory() -> int:
    """The most memory that this process has held, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start_peak_memory() -> int:
    """Forget the peak, where the system can (imports may have a higher one than a small model), and return it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return read_peak_memory()


def measure_peak_cuda_memory(build: Builder, mode: str, setting: CostSetting) -> float:
    """Peak memory of three steps on a CUDA device, in MiB, over what was held before."""
    forget_compiled(setting)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    before = torch.cuda.memory_allocated(setting.device)
    step = make_step(build, mode, setting)
    for _ in range(3):
        step()
    return (torch.cuda.max_memory_allocated(setting.device) - before) / 2**20


def send_peak_memory(build: Builder, mode: str, setting: CostSetting, connection) -> None:
    if setting.num_threads is not None:
        torch.set_num_threads(setting.num_threads)
    before = start_peak_memory()
    step = make_step(build, mode, setting)
    for _ in range(3):
        step()
    connection.send((read_peak_memory() - before) / 2**10)


def measure_peak_memory(build: Builder, mode: str, setting: CostSetting) -> float:
    """
    Peak memory of three steps in MiB, over what was held before the model was built.

    On a CPU in a fresh process: call it before the first timing, since a child process starts with the high-water mark
    of its parent, and with a picklable `build`.
    """
    if setting.device.startswith("cuda"):
        return measure_peak_cuda_memory(build, mode, setting)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_peak_memory, args=(build, mode, setting, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"The process that measures the memory of {build} in {mode} died.") from None
    finally:
        process.terminate()
        process.join()


def count_kept_bytes(compute: Callable[[], torch.Tensor], left_out: Iterable[torch.Tensor]) -> int:
    """Bytes that a computation keeps for its backward pass, each storage once, but for the tensors that are given."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = compute()
    for tensor in left_out:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    # Held until here, so that no storage is freed and taken for another one.
    del result
    return sum(kept.values())


def measure_kept_memory(build: Builder, setting: CostSetting) -> float:
    """Memory in MiB that the forward of a training step keeps for the backward: activations, without the weights."""
    forget_compiled(setting)
    torch.manual_seed(setting.seed)
    device = torch.device(setting.device)
    model: Any = build().train().to(device)  # type: ignore[arg-type]  # the annotation of transformers hides it
    inputs = make_inputs(model, setting)
    if setting.compile:
        model.compile()

    def compute() -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=setting.use_bf16):
            return model(**inputs).loss

    return count_kept_bytes(compute, [*model.parameters(), *inputs.values()]) / 2**20


def count_bag_flops(weight_shape, indices_shape, *args, out_shape=None, **kwargs) -> int:
    """A multiplication and an addition for each entry and feature: the memory's write reads its tokens this way."""
    return 2 * math.prod(indices_shape) * weight_shape[-1]


def count_flops(build: Builder, mode: str, setting: CostSetting) -> float:
    """
    Floating-point operations of one forward pass for each sample, the memory's write counted in training.

    Matrix products, convolutions and attention, two operations for each multiplication and addition.
    """
    # The counter follows gradients into modules where there are any, and there stumbles over learned inputs.
    model = build().train(mode == TRAINING).requires_grad_(False)
    inputs: dict[str, Any] = make_inputs(model, CostSetting(setting.batch_size))
    if isinstance(model, AiTPreTrainedModel):
        # A frozen workspace is not written of itself.
        inputs["update_memory"] = mode == TRAINING and model.config.update_memory
    # The counter does not know the CPU's fused attention; as plain matrix products it is counted.
    bags: dict[Any, Any] = {torch.ops.aten._embedding_bag_forward_only: count_bag_flops}
    counter = FlopCounterMode(display=False, custom_mapping=bags)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops() / setting.batch_size
