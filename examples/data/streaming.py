"""Training from shards: which process and worker reads which rows in which order, so that a run can go on anywhere."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch

from examples.data.shards import Shards


if TYPE_CHECKING:
    from examples.data.images import ImagePixelsDataset

# What stands for a sample that a resumed run has seen: the loader counts it and throws it away.
PLACEHOLDER = {"pixel_values": torch.zeros(0), "labels": torch.tensor(0)}


def shuffle_within(length: int, buffer_size: int, random: np.random.Generator) -> np.ndarray:
    """
    The order in which a shuffle buffer gives out what it is filled with one after the other, (length,).

    It is computed ahead, from numbers alone, so that a run that goes on within it reads only what is still to come.
    """
    order = np.arange(length)
    buffer_size = min(buffer_size, length)
    # The buffer takes the next row into the place that became free; at the end it shrinks.
    num_held = np.minimum(buffer_size, length - order)
    buffer = order[:buffer_size].tolist()
    places = random.integers(0, np.maximum(num_held, 1)).tolist()
    for step, place in enumerate(places):
        order[step] = buffer[place]
        following = step + buffer_size
        buffer[place] = following if following < length else buffer[-1]
        if following >= length:
            buffer.pop()
    return order


class StreamedImages(torch.utils.data.IterableDataset):
    """
    Samples as the model takes them, `pixel_values` (num_channels, height, width) and `labels` (), read from shards.

    In every epoch the shards are put into another order, their rows are dealt to the processes and their workers in
    stretches that follow one another, and each worker shuffles its stretch through a buffer. A process opens the
    shards that its stretch touches and no others. All processes have the same number of batches. As in memory, a
    last batch that several processes cannot fill takes the first rows again, so that of one process alone it is
    smaller, and a sample's augmentation depends on (seed, epoch, index) alone.

    Args:
        shards: The files.
        table: A row for each sample, in the order of the samples: its label, and its row in the shards.
        pixels: What makes an image ready and knows the epoch.
        image_column, label_column, row_column: The columns.
        seed: Seed of the order.
        buffer_size: Encoded images that each worker holds to choose from.
    """

    def __init__(
        self,
        shards: Shards,
        table: datasets.Dataset,
        pixels: "ImagePixelsDataset",
        image_column: str,
        label_column: str,
        row_column: str,
        seed: int = 0,
        buffer_size: int = 1000,
    ):
        self.shards = shards
        self.pixels = pixels
        self.image_column = image_column
        self.labels = table[label_column][:]
        self.seed = seed
        self.buffer_size = buffer_size
        rows = np.asarray(table[row_column][:], dtype=np.int64)
        # Samples in the order of their rows in the shards, and where each shard's begin among them.
        self.samples = np.argsort(rows, kind="stable")
        self.rows = rows[self.samples]
        self.first_rows = np.concatenate([[0], np.cumsum(shards.sizes)])
        self.starts = np.searchsorted(self.rows, self.first_rows)
        # Opened here, for all workers.
        shards.open_stream(image_column)
        # Shared, so that workers that outlive an epoch see the next one.
        self.num_skipped = torch.zeros((), dtype=torch.long).share_memory_()
        self.distribute(0, 1, 1, drop_last=False)

    def distribute(self, rank: int, num_processes: int, batch_size: int, drop_last: bool) -> None:
        """Say which of the processes this is, and how many samples each of them takes at once."""
        self.rank, self.batch_size = rank, batch_size
        in_all = batch_size * num_processes
        self.num_batches = len(self.rows) // in_all if drop_last else -(-len(self.rows) // in_all)
        is_filled = drop_last or num_processes > 1
        self.num_samples = self.num_batches * batch_size if is_filled else len(self.rows)

    def __len__(self) -> int:
        """Samples of this process in an epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def skip(self, num_batches: int) -> None:
        """Go on after that many batches of the epoch: placeholders take their place, and they are not read again."""
        self.num_skipped.fill_(num_batches)

    def deal(self, worker: int, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Deal a stretch of this epoch's rows to a worker.

        Returns:
            Indices into `rows`, (num_samples,), as they are read, and the order in which they are given out.
        """
        epoch = int(self.pixels.epoch)
        shard_order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards.files))
        sequence = np.concatenate([np.arange(self.starts[shard], self.starts[shard + 1]) for shard in shard_order])
        # Batches are taken from the workers in turn.
        counts = [len(range(index, self.num_batches, num_workers)) for index in range(num_workers)]
        start = sum(counts[:worker]) * self.batch_size
        stop = min(start + counts[worker] * self.batch_size, self.num_samples)
        offset = self.rank * self.num_samples
        stretch = sequence[np.arange(offset + start, offset + stop) % len(sequence)]
        random = np.random.default_rng([self.seed, epoch, 1 + offset + start])
        return stretch, shuffle_within(len(stretch), self.buffer_size, random)

    def read(self, stretch: np.ndarray, is_needed: np.ndarray) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Read what is needed of a stretch, one file after the other, with the place of each row in it."""
        shards = np.searchsorted(self.first_rows, self.rows[stretch], side="right") - 1
        rows = self.rows[stretch] - self.first_rows[shards]
        # A file is read forwards. Where the rows begin again, so does the file.
        breaks = np.flatnonzero((np.diff(shards) != 0) | (np.diff(rows) <= 0)) + 1
        for places in np.split(np.arange(len(stretch)), breaks):
            places = places[is_needed[places]]
            if len(places):
                shard = int(shards[places[0]])
                yield from zip(places.tolist(), self.shards.read_rows(self.image_column, shard, rows[places]))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = torch.utils.data.get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        stretch, order = self.deal(worker, num_workers)
        num_batches = len(range(worker, int(self.num_skipped), num_workers))
        num_seen = min(num_batches * self.batch_size, len(order))
        for _ in range(num_seen):
            yield PLACEHOLDER
        is_needed = np.zeros(len(stretch), dtype=bool)
        is_needed[order[num_seen:]] = True
        reading, held = self.read(stretch, is_needed), {}
        for place in order[num_seen:].tolist():
            while place not in held:
                read_place, encoded = next(reading)
                held[read_place] = encoded
            yield self.make_sample(int(stretch[place]), held.pop(place))

    def make_sample(self, index: int, encoded: dict[str, Any] | None) -> dict[str, torch.Tensor]:
        """Decode and augment the image of a row."""
        shard = int(np.searchsorted(self.first_rows, self.rows[index], side="right")) - 1
        where = f"row {self.rows[index] - self.first_rows[shard]} of {self.shards.files[shard]}"
        sample = int(self.samples[index])
        drawn = self.pixels.draw(self.pixels.convert(encoded, where)[None], [sample])
        pixels = drawn.finish(torch.device("cpu"))
        return {"pixel_values": pixels[0], "labels": torch.tensor(self.labels[sample])}
