"""What an evaluation tells of the memories: how evenly their slots are used, how many are dead, how far they moved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from examples.errors import InputError
from examples.visualization.measure import get_encoder
from examples.visualization.slots import SlotUse, measure_movement, start_slot_use


# What is measured, by its name in logs and results.
MEASURED = ("slot_entropy", "dead_slots", "memory_movement")


class MemoryMeter(TrainerCallback):
    """
    Measures the memories of a model in every evaluation, by hooks: no number of the evaluation changes.

    - `slot_entropy`: entropy of the slots' shares of the retrieval attention, in bits, a mean over layers;
    - `dead_slots`: slots of all layers that are no token's first choice;
    - `memory_movement`: mean angle between a slot now and in the evaluation before, or at the start, in degrees.

    Of a model without memories it measures nothing.

    Args:
        model: The model, without wrappers.
        is_active: Whether to measure at all; hooks would make a compiled model compile again.
    """

    def __init__(self, model: Any, is_active: bool = True):
        self.model = model
        self.movement = 0.0
        try:
            get_encoder(self.model)
        except (AttributeError, InputError):
            is_active = False
        self.is_active = is_active
        self.remember()

    def remember(self) -> None:
        """Measure the next movement from the memories as they are now."""
        if self.is_active:
            self.before = [memory.clone() for memory in get_encoder(self.model).memories]

    @contextmanager
    def measure(self, accelerator: Accelerator, prefix: str = "") -> Iterator[dict[str, float]]:
        """Watch an evaluation; what is yielded is filled at its end, by prefixed names, alike in all processes."""
        measured: dict[str, float] = {}
        if not self.is_active:
            yield measured
            return
        use = start_slot_use(self.model)
        with use.watch(self.model):
            yield measured
        if accelerator.num_processes > 1:
            use.tokens, use.attention = (
                accelerator.reduce(counts.to(accelerator.device), "sum").cpu()
                for counts in (use.tokens, use.attention)
            )
        measured.update({f"{prefix}{name}": value for name, value in self.summarize(use).items()})

    def summarize(self, use: SlotUse) -> dict[str, float]:
        """The numbers of an evaluation."""
        memories = get_encoder(self.model).memories
        # The evaluation at the end comes after that of the last epoch, with nothing written in between.
        if not all(torch.equal(before, memory) for before, memory in zip(self.before, memories)):
            self.movement = measure_movement(self.before, memories).mean().item()
            self.remember()
        return dict(zip(MEASURED, (use.entropy.mean().item(), int(use.is_dead.sum()), self.movement)))

    def on_train_begin(self, args, state, control, **kwargs):
        """Measure the first movement from where the training starts, or goes on."""
        self.remember()
