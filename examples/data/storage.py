"""Images decoded once, in parallel, and held as bytes: in memory, or in a file that is mapped into it."""

import os
import shutil
import tempfile
from collections.abc import Callable

import datasets
import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from examples.errors import InputError


# Of the free memory, which all processes of a training on this machine share: what images may take unless asked to be
# held, and what they may take before they go to a file.
SHARE_BY_DEFAULT, SHARE_IN_MEMORY = 0.25, 0.5
# Fewer are decoded sooner than other processes start.
NUM_FOR_PROCESSES = 2000
DECODED_TOGETHER = 64


def count_processors() -> int:
    """Processors that this process may use, its share where several of one training run on this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // count_local_processes())


def count_local_processes() -> int:
    """Processes of this training on this machine, as its launcher says."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def choose_place(num_bytes: int, is_wanted: bool | None) -> str | None:
    """
    Choose where to hold images of that many bytes: "memory", "file", or `None` for nowhere.

    Without a wish (`None`) they are held in memory where they take at most a quarter of what is free. With one they
    go to a file where they take more than half.
    """
    if is_wanted is False:
        return None
    free = psutil.virtual_memory().available / count_local_processes()
    if is_wanted is None:
        return "memory" if num_bytes <= SHARE_BY_DEFAULT * free else None
    return "memory" if num_bytes <= SHARE_IN_MEMORY * free else "file"


def allocate(shape: tuple[int, ...], place: str) -> torch.Tensor:
    """
    Make room for bytes of a shape. A file is in the cache folder of `datasets`, and goes when the process ends.

    Raises:
        InputError: if the disk is too full.
    """
    if place == "memory":
        return torch.empty(shape, dtype=torch.uint8)
    folder = str(datasets.config.HF_DATASETS_CACHE)
    os.makedirs(folder, exist_ok=True)
    needed, free = int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"Decoded images take {needed / 2**30:.1f} GiB, which fit neither into memory nor on the disk of {folder} "
            f"({free / 2**30:.1f} GiB free): pass `--cache_images False`, or set HF_DATASETS_CACHE to a larger disk."
        )
    # Without a name, so that nothing is left behind, however the process ends.
    with tempfile.TemporaryFile(dir=folder) as file:
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


class Reader(torch.utils.data.Dataset):
    """Images by their rows, each read when it is asked for."""

    def __init__(self, read: Callable[[int], torch.Tensor], num_images: int):
        self.read, self.num_images = read, num_images

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.read(row)


def hold(read: Callable[[int], torch.Tensor], num_images: int, shape: tuple[int, ...], place: str) -> torch.Tensor:
    """
    Read all images once, in parallel where there are many, and hold them, uint8 (num_images, C, H, W).

    Args:
        read: What gives the bytes of one, (C, H, W).
        num_images: How many there are.
        shape: (C, H, W).
        place: "memory" or "file".

    Raises:
        InputError: for an image that cannot be read, or a disk that is too full.
    """
    held = allocate((num_images, *shape), place)
    num_workers = count_processors() if num_images >= NUM_FOR_PROCESSES else 0
    num_workers = 0 if num_workers == 1 else num_workers
    batches = torch.utils.data.DataLoader(
        Reader(read, num_images),
        batch_size=DECODED_TOGETHER,
        num_workers=num_workers,
        # A loader draws a seed for its workers, and must take it from no other stream.
        generator=torch.Generator(),
    )
    first = 0
    # `None` is a bar on a terminal alone.
    is_disabled = True if int(os.environ.get("LOCAL_RANK", 0)) > 0 else None
    options = {"total": num_images, "desc": "Decoding", "unit": "image", "leave": False, "dynamic_ncols": True}
    with tqdm(**options, disable=is_disabled) as bar:
        for batch in batches:
            held[first : first + len(batch)] = batch
            first += len(batch)
            bar.update(len(batch))
    return held
