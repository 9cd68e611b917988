"""The loader of a stream, under the Trainer and in the explicit loop."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from examples.data.streaming import StreamedImages
from examples.errors import InputError
from examples.training.termination import ObeyParent


def make_stream_loader(
    stream: StreamedImages,
    training: TrainingArguments,
    batch_size: int,
    device: torch.device,
    collate: Callable | None = None,
) -> DataLoader:
    """
    Make the loader of this process's part of a stream.

    Accelerate would give each process the samples that another has read; here it only moves batches to the device and
    tells which is an epoch's last.

    Raises:
        InputError: for a division of the batches that a stream does not know.
    """
    for name in ("split_batches", "dispatch_batches"):
        if getattr(training.accelerator_config, name, None):
            raise InputError(
                f"`{name}` in `--accelerator_config` has no effect with `--streaming`: each process reads its own "
                "samples. Leave it out."
            )
    stream.distribute(training.process_index, training.world_size, batch_size, training.dataloader_drop_last)
    options: dict[str, Any] = {
        "worker_init_fn": ObeyParent(),
        "num_workers": training.dataloader_num_workers,
        "collate_fn": collate,
    }
    if training.dataloader_num_workers:
        options["persistent_workers"] = training.dataloader_persistent_workers
        options["prefetch_factor"] = training.dataloader_prefetch_factor
        options["multiprocessing_context"] = training.dataloader_multiprocessing_context
    loader = DataLoader(
        stream,
        batch_size=batch_size,
        pin_memory=training.dataloader_pin_memory and device.type != "cpu",
        # Of its own, so that opening the loader in a resumed run takes nothing from dropout's random stream.
        generator=torch.Generator().manual_seed(training.seed),
        **options,
    )
    return prepare_data_loader(
        loader, device=device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
    )
