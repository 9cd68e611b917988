"""Adapting the memory online: images that drift, what a write does to the memory, and what guards it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from modeling_ait import AiTForImageClassification


Memories = Sequence[torch.Tensor]


def add_noise(pixels: torch.Tensor, severity: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise of up to the standard deviation 0.5, the same for all channels."""
    return pixels + 0.5 * severity * torch.randn(pixels[:, :1].shape, generator=generator)


def blur(pixels: torch.Tensor, severity: float, generator: torch.Generator) -> torch.Tensor:
    """Up to the mean of 7 x 7 pixels in place of each."""
    blurred = torch.nn.functional.avg_pool2d(pixels, kernel_size=7, stride=1, padding=3, count_include_pad=False)
    return torch.lerp(pixels, blurred, severity)


def hide_pixels(pixels: torch.Tensor, severity: float, generator: torch.Generator) -> torch.Tensor:
    """Up to half of the pixels, at random places, replaced by the mean of their image."""
    is_hidden = torch.rand(pixels[:, :1].shape, generator=generator) < 0.5 * severity
    return torch.where(is_hidden, pixels.mean(dim=(2, 3), keepdim=True), pixels)


# Each takes pixels (batch_size, num_channels, height, width), a severity from 0 to 1 and a source of randomness.
CORRUPTIONS: dict[str, Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]] = {
    "noise": add_noise,
    "blur": blur,
    "hidden pixels": hide_pixels,
}


class Images(NamedTuple):
    """Images as the model takes them, (num_images, num_channels, height, width), and their labels (num_images,)."""

    pixels: torch.Tensor
    labels: torch.Tensor


def measure_movement(memories: Memories, others: Memories) -> float:
    """Mean distance of a slot from where it is in other memories; written slots have the length 1."""
    return torch.stack([(one - other).norm(dim=-1).mean() for one, other in zip(memories, others)]).mean().item()


def measure_spread(memories: Memories) -> float:
    """Mean distance of a slot from the mean of its layer's: 0 if all slots of every layer are equal."""
    centred = [memory - memory.mean(dim=0) for memory in memories]
    return torch.stack([memory.norm(dim=-1).mean() for memory in centred]).mean().item()


@torch.no_grad()
def classify_and_write(
    model: AiTForImageClassification, pixels: torch.Tensor, trained: Memories, limit: float | None = None
) -> torch.Tensor:
    """
    Classify a batch and write it into the memory, (B, C, H, W) -> (B,).

    Args:
        model: The model, in evaluation mode.
        pixels: The images.
        trained: The memories from which the distance counts.
        limit: Distance from them, see `measure_movement`, beyond which a write is taken back.
    """
    before = model.get_memories()
    outputs = model(pixels, update_memory=True)
    if limit is not None and measure_movement(model.get_memories(), trained) > limit:
        model.set_memories(before)
    return outputs.logits.argmax(dim=-1)


@torch.no_grad()
def measure_accuracy(model: AiTForImageClassification, images: Images) -> float:
    """Accuracy on all images, with the memory as it is and read only."""
    return (model(images.pixels).logits.argmax(dim=-1) == images.labels).float().mean().item()


def read_only(model: AiTForImageClassification, pixels: torch.Tensor, trained: Memories, limit: float) -> torch.Tensor:
    with torch.no_grad():
        return model(pixels).logits.argmax(dim=-1)


def write(model: AiTForImageClassification, pixels: torch.Tensor, trained: Memories, limit: float) -> torch.Tensor:
    return classify_and_write(model, pixels, trained)


def write_within_limit(
    model: AiTForImageClassification, pixels: torch.Tensor, trained: Memories, limit: float
) -> torch.Tensor:
    return classify_and_write(model, pixels, trained, limit)


def write_from_trained(
    model: AiTForImageClassification, pixels: torch.Tensor, trained: Memories, limit: float
) -> torch.Tensor:
    model.set_memories(trained)
    return classify_and_write(model, pixels, trained)


def write_from_initial(
    model: AiTForImageClassification, pixels: torch.Tensor, trained: Memories, limit: float
) -> torch.Tensor:
    model.reset_memories()
    return classify_and_write(model, pixels, trained)


# What is done with each batch of a stream; the first is the plain model.
WAYS: dict[str, Callable[[AiTForImageClassification, torch.Tensor, Memories, float], torch.Tensor]] = {
    "read only": read_only,
    "written": write,
    "written, within a limit": write_within_limit,
    "written, trained memory before each batch": write_from_trained,
    "written, initial memory before each batch": write_from_initial,
}


def draw_batch(images: Images, batch_size: int, generator: torch.Generator) -> Images:
    """Some images at random."""
    rows = torch.randint(0, len(images.labels), (batch_size,), generator=generator)
    return Images(images.pixels[rows], images.labels[rows])


def run_stream(
    model: AiTForImageClassification,
    images: Images,
    corruption: str,
    way: str,
    num_batches: int,
    batch_size: int,
    limit: float,
    seed: int,
) -> dict[str, Any]:
    """
    Classify a stream of batches whose corruption grows from none to the strongest; every way sees the same batches.

    The memories of the model are as before, afterwards.

    Returns:
        The accuracy on each batch, the accuracy on all clean images after the stream, and how far the memories moved.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = model.get_memories()
    accuracies = []
    for step in range(num_batches):
        batch = draw_batch(images, batch_size, generator)
        pixels = CORRUPTIONS[corruption](batch.pixels, step / max(num_batches - 1, 1), generator)
        predictions = WAYS[way](model, pixels, trained, limit)
        accuracies.append((predictions == batch.labels).float().mean().item())
    results = {
        "accuracies": accuracies,
        "clean_accuracy_after": measure_accuracy(model, images),
        "movement": measure_movement(model.get_memories(), trained),
    }
    model.set_memories(trained)
    return results


def write_batches(
    model: AiTForImageClassification,
    images: Images,
    make_batch: Callable[[], torch.Tensor],
    num_batches: int,
    measured_steps: Sequence[int],
    trained: Memories,
    limit: float | None = None,
) -> list[dict[str, float]]:
    """
    Write batches one after the other, and measure the memory at some steps.

    Returns:
        For each measured step: its number, how far the memories are from the trained ones, how far the last write
        moved them, the spread of their slots, and the accuracy on the clean images.
    """
    rows = []
    moved = 0.0
    for step in range(num_batches + 1):
        if step > 0:
            before = model.get_memories()
            classify_and_write(model, make_batch(), trained, limit)
            moved = measure_movement(model.get_memories(), before)
        if step in measured_steps:
            memories = model.get_memories()
            rows.append(
                {
                    "step": step,
                    "distance": measure_movement(memories, trained),
                    "last_movement": moved,
                    "spread": measure_spread(memories),
                    "clean_accuracy": measure_accuracy(model, images),
                }
            )
    return rows
