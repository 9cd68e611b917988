"""How many processes fetch the samples of a training."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from examples.data.storage import count_processors


if TYPE_CHECKING:
    from transformers import TrainingArguments

# More of them would wait for the disk, and each holds batches in memory.
MOST_WORKERS = 8


def choose_workers(training: "TrainingArguments", datasets: Iterable[Any]) -> None:
    """
    Choose the number of worker processes where neither a flag nor a recipe says it (`None`).

    None for images that are held decoded, which are fetched sooner than a process could send them; else, and for a
    GPU, which would wait for what is drawn, one for each processor but the one that trains, at most `MOST_WORKERS`.
    """
    if training.dataloader_num_workers is None:
        decodes = any(getattr(getattr(dataset, "pixels", None), "cached", ()) is None for dataset in datasets)
        is_needed = decodes or training.device.type == "cuda"
        training.dataloader_num_workers = min(MOST_WORKERS, count_processors() - 1) if is_needed else 0
        training.dataloader_persistent_workers = training.dataloader_num_workers > 0
