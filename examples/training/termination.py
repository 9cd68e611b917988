"""Ending a training that is asked to end, with a checkpoint of the step that it had reached."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy


# What a process is sent that shall end: by `kill`, by a scheduler whose time is up, by `examples.compare --minutes`.
SIGNAL = signal.SIGTERM
# Reading what several processes agree on waits for an accelerator, which works ahead otherwise.
STEPS_ON_ACCELERATOR = 10


class Termination:
    """Whether the process, or one of those that train together, was asked to end."""

    def __init__(self) -> None:
        self.is_asked = self.is_agreed = False

    @contextmanager
    def listen(self, training: TrainingArguments) -> Iterator[None]:
        """Take note, while a training runs in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            self.is_asked = True

        before = signal.signal(SIGNAL, note)
        try:
            yield
        finally:
            # One that was not set from Python cannot be set again.
            signal.signal(SIGNAL, signal.SIG_DFL if before is None else before)

    def agree(self, training: TrainingArguments, step: int) -> bool:
        """
        Whether to end after this step, the same for all processes that train together, which all ask.

        They hear the signal at different times, and one that left alone would leave the others waiting.
        """
        if training.world_size == 1:
            self.is_agreed = self.is_asked
        elif training.device.type == "cpu" or step % STEPS_ON_ACCELERATOR == 0:
            asked = torch.tensor(float(self.is_asked), device=training.device)
            distributed.all_reduce(asked, distributed.ReduceOp.MAX)
            self.is_agreed = bool(asked)
        return self.is_agreed


class TerminationCallback(TrainerCallback):
    """
    Saves and stops at the end of the step, once.

    The Trainer's `enable_jit_checkpoint` would leave the losses since the last log out of the results.
    """

    def __init__(self, termination: Termination):
        self.termination = termination

    def on_step_end(self, args, state, control, **kwargs):
        if self.termination.agree(args, state.global_step):
            # What ends an epoch is evaluated first.
            control.should_save = not is_epoch_end(state)
            control.should_training_stop = True
            # What the run goes on from is whole, and saved even if it is not the best.
            args.save_only_model = False
            if args.save_strategy == SaveStrategy.BEST:
                args.save_strategy = SaveStrategy.STEPS

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.termination.is_agreed:
            # The Trainer calls this an end, and would evaluate and save again in the middle of an epoch.
            control.should_save = is_epoch_end(state)
            if not control.should_save:
                control.should_evaluate = control.should_log = False


def is_epoch_end(state: TrainerState) -> bool:
    """Whether the last step was that of an epoch."""
    return abs(state.epoch - round(state.epoch)) < 1e-6


def leave(step: int, num_steps: int, speaks: bool) -> None:
    """End the process as the signal would have, once a checkpoint is written; one of several says so."""
    if speaks:
        print(f"Asked to end: saved at step {step} of {num_steps}. The same command goes on.", flush=True)
    raise SystemExit(128 + SIGNAL)


class ObeyParent:
    """
    Makes a loader's worker end by the training's signal alone, as its `worker_init_fn`.

    A signal to the whole group ends workers while the training still needs them, and their end would end it.
    """

    def __init__(self, then: Callable[[int], Any] | None = None):
        self.then = then

    def __call__(self, worker: int) -> None:
        # Not known on macOS, where workers end as they always did.
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
            threading.Thread(target=wait_for, args=(multiprocessing.parent_process(),), daemon=True).start()
        if self.then is not None:
            self.then(worker)


def wait_for(parent: Any) -> None:
    """End when the process that started this one asks for it."""
    while signal.sigwaitinfo({SIGNAL}).si_pid != parent.pid:
        pass
    os._exit(0)


def protect_workers(loader: DataLoader) -> DataLoader:
    """Let the workers of a loader end by its own process alone."""
    # Accelerate puts a loader around the one that has the workers.
    inner = getattr(loader, "base_dataloader", loader)
    if not isinstance(inner.worker_init_fn, ObeyParent):
        inner.worker_init_fn = ObeyParent(inner.worker_init_fn)
    return loader
