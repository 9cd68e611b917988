"""The steps that are left of a training by transformers' Trainer: all, those after a checkpoint, or none."""

from pathlib import Path
from pickle import UnpicklingError

from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from examples.errors import LOADING_ERRORS, InputError, flatten_message
from examples.training.checkpoints import find_best
from examples.training.loading import load_weights
from examples.training.termination import Termination, leave


def load_state(checkpoint: Path) -> TrainerState:
    """
    Read where a checkpoint was written.

    Raises:
        InputError: if its state is not one that the Trainer goes on from.
    """
    try:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        is_usable = state.global_step > 0 and state.max_steps > 0 and (state.train_batch_size or 0) > 0
    except LOADING_ERRORS as error:
        raise InputError(f"{checkpoint} cannot be resumed: {flatten_message(error)}") from error
    if not is_usable:
        raise InputError(f"{checkpoint} cannot be resumed: its {TRAINER_STATE_NAME} tells of no training.")
    return state


def is_over(state: TrainerState, training: TrainingArguments) -> bool:
    """Whether a state is of the last step that the arguments ask for."""
    if training.max_steps > 0:
        return state.global_step >= training.max_steps
    return (state.epoch or 0.0) >= training.num_train_epochs - 1e-6


def take_steps(trainer: Trainer, checkpoint: Path | None, termination: Termination) -> int:
    """
    Take all steps that are left, and return how many a checkpoint had.

    Raises:
        InputError: for a checkpoint or arguments that the Trainer cannot use.
        SystemExit: if the process is asked to end; a checkpoint is saved.
    """
    state = load_state(checkpoint) if checkpoint is not None else None
    if checkpoint is not None and state is not None and is_over(state, trainer.args):
        # Killed between the last step and the results. The Trainer would train for another step.
        best = find_best(checkpoint) if trainer.args.load_best_model_at_end else None
        load_weights(trainer.accelerator.unwrap_model(trainer.model), best or checkpoint)
        trainer.state = state
        return state.global_step
    if state is not None:
        # Shares of all steps, to which the Trainer would compare the numbers that it has made of them.
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if 0 < (getattr(trainer.args, name) or 0) < 1:
                setattr(trainer.args, name, getattr(state, name))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UnpicklingError as error:
        raise InputError(f"{checkpoint} cannot be resumed: {flatten_message(error)}") from error
    except ImportError as error:
        raise InputError(f"The Trainer cannot use these arguments: {flatten_message(error)}") from error
    if termination.is_agreed and not is_over(trainer.state, trainer.args):
        leave(trainer.state.global_step, trainer.state.max_steps, trainer.is_world_process_zero())
    return state.global_step if state is not None else 0
