"""Tiny data sets in shards, as the tests of streams read them."""

import io
import tarfile

import datasets
import numpy as np
from PIL import Image


LABEL_NAMES = ["cat", "dog"]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=LABEL_NAMES)})
# Rows of each shard: uneven, and one shard without any.
SIZES = {"train": (13, 5, 0, 9, 20), "test": (7, 6)}


def encode(index):
    """The image of a sample, which is another for each."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path, indices, features=FEATURES, **columns):
    rows = {
        "image": [{"bytes": encode(index), "path": None} for index in indices],
        "label": [index % 2 for index in indices],
    }
    datasets.Dataset.from_dict({**rows, **columns}, features=features).to_parquet(path)


def write_tar(path, indices, labels=None):
    """Write a WebDataset tar; a label of `None` is left out."""
    with tarfile.open(path, "w") as archive:
        for place, index in enumerate(indices):
            label = index % 2 if labels is None else labels[place]
            fields = {"png": encode(index), "cls": None if label is None else str(label).encode()}
            for name, content in fields.items():
                if content is not None:
                    member = tarfile.TarInfo(f"{index:05d}.{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def write_shards(folder, kind="parquet", sizes=None):
    """Write a data set of the given sizes; its samples are numbered through."""
    folder.mkdir(exist_ok=True)
    start = 0
    for split, counts in (sizes or SIZES).items():
        for shard, count in enumerate(counts):
            write, suffix = (write_parquet, "parquet") if kind == "parquet" else (write_tar, "tar")
            write(folder / f"{split}-{shard:05d}.{suffix}", range(start, start + count))
            start += count
    return folder
