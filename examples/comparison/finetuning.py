"""Training a pretrained ViT, or the AiT converted from it, on some classes of a data set."""

import time
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from examples.data.images import decode_image
from examples.training.metrics import compute_metrics
from examples.training.progress import RunningMean, show_progress


class TensorImages(torch.utils.data.Dataset):
    """Images of some classes, decoded once and held in memory; labels count from 0 among these classes."""

    def __init__(self, data, columns: tuple[str, str], classes: list[int], processor, limit: int | None = None):
        labels = np.asarray(data[columns[1]][:])
        rows = np.flatnonzero(np.isin(labels, classes))
        if limit is not None:
            rows = np.random.default_rng(0).permutation(rows)[:limit]
        images = [decode_image(data[int(row)][columns[0]], f"row {row}").convert("RGB") for row in rows]
        self.pixel_values = torch.cat(
            [
                processor(images=images[start : start + 1000], return_tensors="pt")["pixel_values"]
                for start in range(0, len(images), 1000)
            ]
        )
        self.labels = torch.tensor([classes.index(labels[row]) for row in rows])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


def train(
    model: PreTrainedModel, train_data: TensorImages, eval_data: TensorImages, output_dir: Path, **options
) -> tuple[float, float]:
    """Train with the Trainer; return the accuracy afterwards and the seconds that it took."""
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=64,
        per_device_eval_batch_size=256,
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        report_to="none",
        save_strategy="no",
        logging_steps=100,
        dataloader_pin_memory=torch.cuda.is_available(),
        **options,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train_data, eval_dataset=eval_data, compute_metrics=compute_metrics
    )
    show_progress(trainer, RunningMean())
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    return trainer.evaluate()["eval_accuracy"], seconds
