"""Ending a training that is asked to end, with a checkpoint of the step that it had reached."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainingArguments


# What a process is sent that shall end: by `kill`, by a scheduler whose time is up, by `examples.compare --minutes`.
SIGNAL = signal.SIGTERM


class Termination:
    """Whether the process was asked to end. A second time ends it at once."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextmanager
    def listen(self, training: TrainingArguments) -> Iterator[None]:
        """
        Take note, while a training of one process runs in the main thread.

        Several processes would hear it at different steps, and wait for each other.
        """
        if training.world_size > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(SIGNAL)

        def note(number: int, frame: Any) -> None:
            self.is_asked = True
            signal.signal(SIGNAL, before)

        signal.signal(SIGNAL, note)
        try:
            yield
        finally:
            signal.signal(SIGNAL, before)


class TerminationCallback(TrainerCallback):
    """
    Saves and stops at the end of the step.

    The Trainer's `enable_jit_checkpoint` would leave the losses since the last log out of the results.
    """

    def __init__(self, termination: Termination):
        self.termination = termination

    def on_step_end(self, args, state, control, **kwargs):
        if self.termination.is_asked:
            control.should_save = control.should_training_stop = True


def leave(step: int, num_steps: int) -> None:
    """End the process as the signal would have, once a checkpoint is written."""
    print(f"Asked to end: saved at step {step} of {num_steps}. The same command goes on.", flush=True)
    raise SystemExit(128 + SIGNAL)
