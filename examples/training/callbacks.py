"""What the Trainer does beside its steps: epochs, memories and logs."""

from pathlib import Path

from transformers import TrainerCallback

from examples.data.streaming import StreamedImages
from examples.training.checkpoints import find_best


class EpochCallback(TrainerCallback):
    """Tells the training set which epoch it is, for its augmentation; accelerate does so in some settings only."""

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch + 1e-6))


class ResetMemoryCallback(TrainerCallback):
    """Starts every epoch with the initial memories: the ablation "reset memory" of the paper."""

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        # A run that was resumed within an epoch goes on with the memories of its checkpoint.
        if abs(state.epoch - round(state.epoch)) < 1e-6:
            model.reset_memories()


class CompleteLogCallback(TrainerCallback):
    """Logs at every save and at the last step too, so that the logged losses account for every step."""

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if control.should_save:
            control.should_log = True


class BestCheckpointCallback(TrainerCallback):
    """Finds the best checkpoint of a resumed run beside the one it goes on from, wherever the folder is by now."""

    def __init__(self, checkpoint: Path):
        self.best = find_best(checkpoint)

    def on_train_begin(self, args, state, control, **kwargs):
        state.best_model_checkpoint = str(self.best) if self.best else None


class SkipCallback(TrainerCallback):
    """Tells a stream how many batches of the epoch were trained on before the run was resumed."""

    def __init__(self, stream: StreamedImages):
        self.stream = stream

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        steps_per_epoch = -(-len(train_dataloader) // args.gradient_accumulation_steps)
        self.stream.skip(state.global_step % steps_per_epoch * args.gradient_accumulation_steps)
