"""What a GPU is asked: ratios in bfloat16, compiled and not; images per second from data; memory by batch size."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm
from transformers import TrainingArguments

from examples.benchmarking.measuring import describe_costs, make_builders, measure_shape
from examples.benchmarking.shapes import REFERENCE, Shape
from examples.data.arguments import DataArguments
from examples.data.images import make_datasets
from examples.data.loading import load_image_data
from examples.errors import InputError
from examples.training.cost import (
    MODES,
    TRAINING,
    Builder,
    CostSetting,
    make_step,
    measure_peak_memory,
    synchronize,
    time_rounds,
)
from examples.training.loading import make_image_processor
from examples.training.loop import make_loaders
from modeling_ait import AiTConfig


# Batches that are left out of the images per second: compilation, and workers that start.
NUM_WARMUP_BATCHES = 5
SMALLEST_BATCH_SIZE = 128
VARIANTS = {"eager": False, "compiled": True}


@dataclass
class Suite:
    """
    What is measured, and until when.

    Args:
        shapes: Shapes by name; data and batch sizes are measured at the first.
        models: Architectures, the reference among them.
        setting: How to measure; the batch size and whether to compile are chosen by the suite.
        num_rounds: Timed rounds.
        deadline: When nothing more is started, by `time.monotonic`.
        dataset_name: Data of the images per second.
        num_images: Images of it, at most.
        num_workers: Processes that load them.
        largest_batch_size: Where the search for the largest batch ends.
        batch_size: Images per batch; `None` is the shape's own.
        official: Checkout of the official code, for its model as one more in the ratios.
        left_out: What was not measured, and why.
    """

    shapes: dict[str, Shape]
    models: Sequence[str]
    setting: CostSetting
    num_rounds: int
    deadline: float
    dataset_name: str
    num_images: int
    num_workers: int
    largest_batch_size: int
    batch_size: int | None = None
    official: str | None = None
    left_out: list[str] = field(default_factory=list)

    def attempt(self, what: str, measure: Callable[[], Any]) -> Any:
        """What a measurement gives, or `None` with a note: the time is up, or the memory does not suffice."""
        if time.monotonic() > self.deadline:
            self.note(f"{what}: the time was up")
            return None
        print(what, flush=True)
        try:
            return measure()
        except torch.OutOfMemoryError:
            self.note(f"{what}: out of memory")
            return None
        finally:
            free_memory()

    def note(self, text: str) -> None:
        print(f"  left out: {text}", flush=True)
        self.left_out.append(text)

    def choose_setting(self, shape: Shape, variant: str) -> CostSetting:
        return replace(
            self.setting, batch_size=self.batch_size or shape.batch_size, compile=VARIANTS[variant], use_bf16=True
        )


def free_memory() -> None:
    """Give back what the models of a measurement held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_loader(suite: Suite, shape: Shape, batch_size: int) -> torch.utils.data.DataLoader:
    """
    The training loader of the project over images in memory, cropped and flipped, of the size of a shape.

    On a GPU it hands over bytes, which are made ready where they are moved.
    """
    # Fewer images to evaluate on: they are not used.
    arguments = DataArguments(
        dataset_name=suite.dataset_name,
        max_train_samples=suite.num_images,
        max_eval_samples=1,
        cache_images=True,
        crop_padding=4,
        horizontal_flip=True,
    )
    data = load_image_data(arguments)
    config = AiTConfig(**shape.make_fields())
    if len(data.label_names) > int(config.num_labels or 0):
        raise InputError(
            f"{suite.dataset_name!r} has {len(data.label_names)} classes, and the models of the benchmark have "
            f"{config.num_labels}. Name another `--dataset_name`."
        )
    processor = make_image_processor(config, arguments)
    with TemporaryDirectory() as folder:
        training = TrainingArguments(
            output_dir=str(Path(folder, "unused")),
            per_device_train_batch_size=batch_size,
            dataloader_num_workers=suite.num_workers,
            dataloader_drop_last=True,
            use_cpu=not suite.setting.device.startswith("cuda"),
            report_to="none",
        )
        datasets = make_datasets(data, arguments, processor, suite.setting.seed, training.device)
        return make_loaders(datasets, training)[0]


def iterate_batches(loader: torch.utils.data.DataLoader, device: str) -> Iterator[dict[str, torch.Tensor]]:
    """Batches on the device, epoch after epoch without end."""
    while True:
        for batch in loader:
            yield send_to_device(batch, device, non_blocking=True)


def measure_images(
    build: Builder, loader: torch.utils.data.DataLoader, setting: CostSetting, num_batches: int
) -> dict[str, float]:
    """Images per second of training from data, on one batch that is there already, and the one over the other."""
    step = make_step(build, TRAINING, setting)
    batches = iterate_batches(loader, setting.device)
    speeds = {}
    for name in ("data", "synthetic"):
        first = next(batches)
        # One more for the first, so that both have run as often before.
        for _ in range(NUM_WARMUP_BATCHES):
            step(next(batches) if name == "data" else first)
        synchronize(setting.device)
        start = time.perf_counter()
        for _ in tqdm(range(num_batches), desc=name, leave=False, disable=None):
            step(next(batches) if name == "data" else first)
        synchronize(setting.device)
        speeds[name] = num_batches * setting.batch_size / (time.perf_counter() - start)
    return {
        "images_per_second_from_data": speeds["data"],
        "images_per_second_synthetic": speeds["synthetic"],
        "share": speeds["data"] / speeds["synthetic"],
    }


def measure_batch_size(build: Builder, mode: str, setting: CostSetting) -> dict[str, float]:
    """Peak memory and images per second at a batch size."""
    peak = measure_peak_memory(build, mode, setting)
    seconds = statistics.median(time_rounds({"model": build}, mode, setting, 3)["model"])
    return {
        "batch_size": setting.batch_size,
        "peak_memory_mib": peak,
        "images_per_second": setting.batch_size / seconds,
    }


def find_largest_batch(suite: Suite, shape: Shape, model: str, mode: str) -> dict[str, Any]:
    """Memory by batch size, doubled until it does not fit, the time is up or the largest size is reached."""
    build = make_builders(shape, [model])[model]
    rows: list[dict[str, float]] = []
    batch_size = min(suite.batch_size or SMALLEST_BATCH_SIZE, suite.largest_batch_size)
    end = "the largest batch size"
    while batch_size <= suite.largest_batch_size:
        if time.monotonic() > suite.deadline:
            end = "the time"
            break
        setting = replace(suite.choose_setting(shape, "eager"), batch_size=batch_size)
        try:
            rows.append(measure_batch_size(build, mode, setting))
        except torch.OutOfMemoryError:
            end = "the memory"
        free_memory()
        if end == "the memory":
            break
        batch_size *= 2
    return {"rows": rows, "ended_by": end, "not_reached": batch_size}


def describe_batches(found: dict[str, Any]) -> list[str]:
    """A line for each batch size, and where it ended."""
    lines = [
        f"  {row['batch_size']} images: {row['peak_memory_mib']:,.0f} MiB, {row['images_per_second']:,.0f} images/s"
        for row in found["rows"]
    ]
    return [*lines, f"  ended by {found['ended_by']}, before {found['not_reached']} images"]


def run_suite(suite: Suite) -> Iterator[dict[str, Any]]:
    """Measure everything, the most asked first; yield all that there is so far after each measurement."""
    results: dict[str, Any] = {"ratios": {}, "data": {}, "batch_sizes": {}, "left_out": suite.left_out}
    if suite.setting.device.startswith("cuda"):
        device = torch.device(suite.setting.device)
        results["device_memory_mib"] = torch.cuda.get_device_properties(device).total_memory / 2**20
    name, shape = next(iter(suite.shapes.items()))
    for variant in VARIANTS:
        results["ratios"][variant] = {}
        for other_name, other in suite.shapes.items():
            measured = suite.attempt(
                f"Ratios, bfloat16, {variant}: {other_name}",
                partial(
                    measure_shape,
                    other,
                    suite.models,
                    suite.choose_setting(other, variant),
                    suite.num_rounds,
                    official=suite.official,
                ),
            )
            if measured is not None:
                results["ratios"][variant][other_name] = measured
                print(*describe_costs(measured), sep="\n", flush=True)
            yield results

    yield from measure_data(suite, name, shape, results)
    for model in dict.fromkeys([*suite.models, REFERENCE]):
        for mode in MODES:
            found = suite.attempt(
                f"Memory by batch size: {name}, {model}, {mode}",
                partial(find_largest_batch, suite, shape, model, mode),
            )
            if found is not None:
                results["batch_sizes"].setdefault(model, {})[mode] = {"shape": name, **found}
                print(*describe_batches(found), sep="\n", flush=True)
            yield results


def measure_data(suite: Suite, name: str, shape: Shape, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Add the images per second from data."""
    batch_size = min(suite.batch_size or shape.batch_size, suite.num_images)
    loader = suite.attempt(f"Data: {suite.dataset_name}", partial(make_loader, suite, shape, batch_size))
    if loader is None:
        return
    build = make_builders(shape, ["ait"])["ait"]
    for variant in VARIANTS:
        setting = replace(suite.choose_setting(shape, variant), batch_size=loader.batch_size)
        # Some epochs, or at least as many batches as there are rounds.
        num_batches = max(suite.num_rounds, 2 * len(loader))
        measured = suite.attempt(
            f"Images per second, bfloat16, {variant}: {name}, ait",
            partial(measure_images, build, loader, setting, num_batches),
        )
        if measured is not None:
            results["data"][variant] = {"shape": name, "dataset_name": suite.dataset_name, **measured}
            print(
                f"  {measured['images_per_second_from_data']:,.0f} images/s from data, "
                f"{100 * measured['share']:.1f} % of the speed on one batch",
                flush=True,
            )
        yield results
