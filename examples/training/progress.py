"""What a training shows: a bar, or a line every half minute, with the remaining time, and a line for each epoch."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState
from transformers.utils import logging

from examples.training.memory_use import MEASURED


# The bar shows a new loss that often, because to read one from a GPU is to wait for it.
SECONDS_BETWEEN_LOSSES = 0.5
# Without a bar there is a line that often within an epoch.
SECONDS_BETWEEN_LINES = 30.0


def quieten_libraries(verbose: bool) -> None:
    """Switch off the libraries' own bars: for every file that is written, read or flattened."""
    if not verbose:
        logging.disable_progress_bar()
        datasets.disable_progress_bars()


def describe_number(value: Any) -> str:
    """A number with four digits, or whatever else it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass
class RunningMean:
    """Mean of losses on their own device, read only when it is shown."""

    total: torch.Tensor | float = 0.0
    count: int = 0

    def add(self, loss: torch.Tensor) -> None:
        """Take the loss of a batch, ()."""
        self.total = self.total + loss.detach()
        self.count += 1

    def read(self) -> float:
        """The mean, NaN where there is none."""
        return float(self.total) / self.count if self.count else math.nan

    def clear(self) -> None:
        """Forget all."""
        self.total, self.count = 0.0, 0


@dataclass
class Progress:
    """
    The bar, and the lines above it. Where the output is no terminal, a line every half minute stands for the bar.

    Args:
        num_steps: Steps of the whole training.
        num_epochs: Its epochs.
        step: Steps that were made before.
        loss: Mean loss since the last line.
        use_bar: Whether there may be a bar.
        is_shown: Whether this process shows anything.
        verbose: Whether every log is a line too.
    """

    num_steps: int
    num_epochs: float
    step: int
    loss: RunningMean
    use_bar: bool = True
    is_shown: bool = True
    verbose: bool = False
    accuracy: float | None = None
    start: float = field(default_factory=time.monotonic)
    shown_at: float = 0.0

    def __post_init__(self):
        self.first_step, self.line_at = self.step, self.start
        self.bar = tqdm(
            total=self.num_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            # `None` is a bar on a terminal alone.
            disable=None if self.use_bar and self.is_shown else True,
        )

    def advance(self, step: int) -> None:
        """Move the bar to a step, or print how far the training is where there was no line for long."""
        now = time.monotonic()
        if self.bar.disable and self.is_shown and now - self.line_at > SECONDS_BETWEEN_LINES:
            minutes = (self.num_steps - step) * (now - self.start) / (step - self.first_step) / 60
            self.write(f"step {step} of {self.num_steps}: loss {self.loss.read():.4f}, {minutes:.0f} min left")
        if not self.bar.disable and now - self.shown_at > SECONDS_BETWEEN_LOSSES:
            self.shown_at = now
            accuracy = "" if self.accuracy is None else f", accuracy {100 * self.accuracy:.2f} %"
            self.bar.set_postfix_str(f"loss {self.loss.read():.4f}{accuracy}", refresh=False)
        self.bar.update(step - self.step)
        self.step = step

    def show(self, epoch: float, metrics: dict[str, Any] | None = None) -> None:
        """Print the line of an epoch, with `eval_loss` and `eval_accuracy` where it was evaluated."""
        parts = [] if self.loss.count == 0 else [f"loss {self.loss.read():.4f}"]
        self.loss.clear()
        if metrics is not None:
            self.accuracy = metrics["eval_accuracy"]
            parts += [f"held-out loss {metrics['eval_loss']:.4f}", f"accuracy {100 * self.accuracy:.2f} %"]
        epochs = f"epoch {round(epoch, 2):g} of {round(self.num_epochs, 2):g}"
        seconds = round(time.monotonic() - self.start)
        self.write(f"{epochs}: {', '.join([*parts, f'step {self.step} of {self.num_steps}', f'{seconds} s'])}")

    def show_log(self, step: int, logs: dict[str, Any]) -> None:
        """Print all that was logged at a step, if asked to."""
        if self.verbose:
            self.write(
                f"step {step}: " + ", ".join(f"{name} {describe_number(value)}" for name, value in logs.items())
            )

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        self.line_at = time.monotonic()
        if self.is_shown:
            self.bar.write(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class LinePerEpochCallback(TrainerCallback):
    """Shows the progress of a Trainer, in place of its own bars and dictionaries."""

    def __init__(self, loss: RunningMean, verbose: bool):
        self.loss, self.verbose = loss, verbose
        self.progress: Progress | None = None
        self.is_due = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress = Progress(
            state.max_steps,
            state.num_train_epochs,
            state.global_step,
            self.loss,
            not args.disable_tqdm,
            state.is_world_process_zero,
            self.verbose,
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.advance(state.global_step)

    def on_epoch_end(self, args, state, control, **kwargs):
        # The evaluation of the epoch, if there is one, comes next, unless one at the last step has shown it already.
        self.is_due = self.loss.count > 0

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.progress is not None and metrics is not None:
            self.progress.show(state.epoch, metrics)
            self.is_due = False

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.is_due:
            self.progress.show(state.epoch)
            self.is_due = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.progress is not None:
            self.progress.show_log(state.global_step, logs)

    def on_train_end(self, args, state, control, **kwargs):
        self.on_epoch_begin(args, state, control)
        self.progress.close()
        self.progress = None


def show_progress(trainer: Trainer, loss: RunningMean, verbose: bool = False) -> None:
    """Let a Trainer show its progress by a bar and a line for each epoch, in place of what it shows itself."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(LinePerEpochCallback(loss, verbose))


def collect_history(state: TrainerState) -> list[dict[str, float]]:
    """The losses and evaluations that were logged."""
    evaluated = [f"eval_{name}" for name in ("loss", "accuracy", *MEASURED)]
    return [
        {name: entry[name] for name in ("epoch", "step", "loss", *evaluated) if name in entry}
        for entry in state.log_history
        if "loss" in entry or "eval_loss" in entry
    ]
