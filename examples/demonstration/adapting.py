"""A memory that adapts to a stream of shifted images, of one visitor alone."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from examples.comparison.adaptation import (
    CORRUPTIONS,
    WAYS,
    Images,
    Memories,
    draw_batch,
    measure_movement,
    measure_spread,
)
from examples.comparison.adaptation_plots import smooth
from examples.demonstration.looking import draw_figure, embed
from examples.demonstration.opening import Opened
from examples.visualization.memory_panels import BLUE, RED
from examples.visualization.page import SMALL, Page, Sheet, wrap


READ_ONLY, *WRITTEN = WAYS
# Distance of a slot from the trained one beyond which a write is taken back, where there is a limit.
LIMIT = 0.5
BATCH_SIZE, NUM_SHOWN = 32, 5
LINES = (("read_only", "trained memory, read only", RED), ("written", "your memory, adapting", BLUE))
# Of the severity in the curve, and the width of an image in inches.
SHADE, WIDTH = "#e4e4e4", 0.75


@dataclass(frozen=True)
class Batch:
    """
    What happened to one batch.

    Args:
        severity: How strongly its images were shifted, from 0 to 1.
        read_only: Share of them that the trained memory gets right.
        written: Share that the adapting memory gets right, before it is written with them.
    """

    severity: float
    read_only: float
    written: float


@dataclass(frozen=True)
class Stream:
    """
    What one visitor has sent: nothing of it is shared, and nothing of it is ever changed.

    Args:
        memories: The memory of each layer now.
        batches: The batches so far.
        pictures: Some images of the last one, (height, width, 3), each with what was said and what is right.
    """

    memories: Memories
    batches: tuple[Batch, ...] = ()
    pictures: tuple[tuple[np.ndarray, str, str], ...] = field(default=(), repr=False)


class Adapter:
    """Adapts memories by a model that shares the weights of the one looked at, but not its memories."""

    def __init__(self, opened: Opened):
        assert opened.images is not None
        self.opened, self.images = opened, opened.images
        shared = {id(parameter): parameter for parameter in opened.model.parameters()}
        self.model: Any = copy.deepcopy(opened.model, shared)
        self.trained: Memories = self.model.get_memories()
        self.trained_accuracy = self.measure_accuracy(self.trained)

    def measure_accuracy(self, memories: Memories) -> float:
        """Share of the images, not shifted, that some memories get right."""
        self.model.set_memories(memories)
        parts = self.images.pixels.split(BATCH_SIZE)
        predictions = torch.cat([WAYS[READ_ONLY](self.model, part, self.trained, LIMIT) for part in parts])
        return (predictions == self.images.labels).float().mean().item()

    def start(self) -> Stream:
        """The trained memory, before any batch."""
        return Stream(self.trained)

    def send(self, stream: Stream, corruption: str, severity: float, way: str, num_batches: int) -> Stream:
        """
        Classify some batches of held-out images with the trained memory and with the adapting one, and write them.

        Args:
            stream: What was sent before.
            corruption: One of `CORRUPTIONS`.
            severity: From 0 to 1.
            way: What is done with each batch, one of `WRITTEN`.
            num_batches: Batches of `BATCH_SIZE` images. The number of a batch decides which.

        Returns:
            A new stream; the one given stays as it is.
        """
        memories, batches = stream.memories, list(stream.batches)
        with self.opened.lock:
            for _ in range(num_batches):
                generator = torch.Generator().manual_seed(len(batches))
                batch = draw_batch(self.images, BATCH_SIZE, generator)
                shifted = batch._replace(pixels=CORRUPTIONS[corruption](batch.pixels, severity, generator))
                shares, predictions = [], batch.labels
                for name, state in ((READ_ONLY, self.trained), (way, memories)):
                    self.model.set_memories(state)
                    predictions = WAYS[name](self.model, shifted.pixels, self.trained, LIMIT)
                    shares.append((predictions == batch.labels).float().mean().item())
                memories = self.model.get_memories()
                batches.append(Batch(severity, *shares))
        return Stream(memories, tuple(batches), self.picture(shifted, predictions))

    def picture(self, batch: Images, predictions: torch.Tensor) -> tuple[tuple[np.ndarray, str, str], ...]:
        """Some images of a batch, each with what was said and what is right."""
        names = self.opened.label_names
        rows = zip(batch.pixels[:NUM_SHOWN], predictions.tolist(), batch.labels.tolist())
        return tuple((self.opened.restore(pixels), names[said], names[right]) for pixels, said, right in rows)

    def describe(self, stream: Stream) -> str:
        """What the memory is like now, beside the trained one, as a table of Markdown."""
        with self.opened.lock:
            accuracy = self.measure_accuracy(stream.memories)
        rows = [
            ("Accuracy on images as they are", f"{100 * self.trained_accuracy:.1f} %", f"{100 * accuracy:.1f} %"),
            ("Mean distance of a slot from where training left it", "0", f"{self.measure_distance(stream):.3f}"),
            (
                "Spread of the slots (0: all alike)",
                *(f"{measure_spread(memories):.3f}" for memories in (self.trained, stream.memories)),
            ),
        ]
        if stream.batches:
            shares = np.mean([(batch.read_only, batch.written) for batch in stream.batches], axis=0)
            name = f"Accuracy on the stream so far ({len(stream.batches)} batches of {BATCH_SIZE})"
            rows.insert(0, (name, f"{100 * shares[0]:.1f} %", f"{100 * shares[1]:.1f} %"))
        head = [("", "trained memory", "your memory"), ("---", "---:", "---:")]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows])

    def measure_distance(self, stream: Stream) -> float:
        """Mean distance of a slot from where training left it; written slots have the length 1."""
        return measure_movement(stream.memories, self.trained)


def draw_curve(stream: Stream) -> str:
    """The accuracy of both memories over the stream, with the severity of the shift behind, as HTML."""
    if not stream.batches:
        return '<p class="hint">No batch has been sent yet.</p>'
    page = Page(4.3, 2.3)
    axis = page.add_axis(0.45, 0.42, 3.75, 1.5)
    numbers = range(1, len(stream.batches) + 1)
    severity = [100 * batch.severity for batch in stream.batches]
    axis.fill_between(numbers, severity, step="mid", color=SHADE, linewidth=0)
    for place, (name, label, color) in enumerate(LINES):
        values = np.array([[100 * getattr(batch, name) for batch in stream.batches]])
        axis.plot(numbers, values[0], ".", color=color, markersize=3, alpha=0.5)
        axis.plot(numbers, smooth(values, min(5, len(numbers)))[0], color=color, linewidth=1.5)
        page.write(0.45 + 1.85 * place, 0.08, f"\u25cf {label}", color=color)
    page.write(0.45, 0.24, "\u25a0 severity of the shift (%)", color="#8a8a8a")
    axis.set_ylim(0, 102)
    axis.set_xlim(0.5, len(numbers) + 0.5)
    axis.locator_params(axis="x", integer=True, nbins=10, min_n_ticks=1)
    axis.set_xlabel(f"batch of {BATCH_SIZE} images", fontsize=SMALL + 1, labelpad=1)
    axis.set_ylabel("accuracy (%)", fontsize=SMALL + 1, labelpad=1)
    return embed(page, "Accuracy while the images shift (dots: batches; lines: mean of five)")


def draw_last_images(stream: Stream) -> str:
    """Some images of the last batch, with what the adapting memory said of each, as HTML; empty before the first."""
    if not stream.pictures:
        return ""
    cells = [[picture for picture, _, _ in stream.pictures]]
    texts = [said if said == right else f"{said}, not {right}" for _, said, right in stream.pictures]
    captions = [[wrap(text, WIDTH, SMALL, 1)[0] for text in texts]]
    height, width = cells[0][0].shape[:2]
    sheet = Sheet(cells, (WIDTH, WIDTH * float(np.clip(height / width, 0.4, 2.0))), [], 0, captions=captions)
    panel = sheet.make_panel("Images of the last batch, and what the model says with your memory")
    return draw_figure(panel)
