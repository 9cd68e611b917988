"""Training with transformers' Trainer: callbacks, the two losses apart, resuming."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    ViTImageProcessorPil,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from examples.data.images import collate_batch
from examples.data.streaming import StreamedImages
from examples.errors import InputError, flatten_message
from examples.training.arguments import refuse_empty_epochs
from examples.training.callbacks import (
    BestCheckpointCallback,
    CompleteLogCallback,
    EpochCallback,
    ResetMemoryCallback,
    SkipCallback,
)
from examples.training.checkpoints import (
    claim_checkpoint,
    drop_old_checkpoints,
    seal_checkpoint,
)
from examples.training.label_smoothing import SharesSmoother
from examples.training.memory_use import MemoryMeter
from examples.training.model import leaves_parameters_unused
from examples.training.progress import RunningMean, collect_history, show_progress
from examples.training.steps import take_steps
from examples.training.streams import make_stream_loader
from examples.training.termination import Termination, TerminationCallback, protect_workers
from examples.training.workers import choose_workers
from modeling_ait import AiTCardMixin


# Arguments without whose defaults the Trainer would not measure the accuracy or the loss of the evaluation.
NEEDED_TO_MEASURE = {
    "prediction_loss_only": False,
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
    "label_names": None,
}


class AiTTrainer(AiTCardMixin, Trainer):
    """
    Trainer that logs the task loss and the balance loss apart, and keeps the balance loss under label smoothing.

    Raises:
        `ValueError`: for a `compute_loss_func`, which would replace the model's loss and drop the balance loss.
    """

    def __init__(self, *args, **kwargs):
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "AiTTrainer takes no `compute_loss_func`: it would drop the balance loss. Override `compute_loss`."
            )
        super().__init__(*args, **kwargs)
        if self.label_smoother is not None:
            self.label_smoother = SharesSmoother(self.label_smoother.epsilon)
        # The Trainer would drop the oldest checkpoints before the new one is complete, and those of others.
        self.checkpoint_limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.running_loss = RunningMean()
        self.loss_parts: dict[str, list[torch.Tensor]] = {"task_loss": [], "balance_loss": []}
        self.add_callback(meter := MemoryMeter(self.model, is_active=not self.args.torch_compile))
        self.memory_meter = meter

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Read before, because the Trainer takes the labels out for label smoothing.
        is_smoothed = self.label_smoother is not None and "labels" in inputs
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        balance_loss = outputs.get("balance_loss")
        if balance_loss is not None:
            weighted_loss = self.accelerator.unwrap_model(self.model).config.balance_loss_coef * balance_loss
            if is_smoothed:
                loss = loss + weighted_loss
            self.loss_parts["task_loss"].append((loss - weighted_loss).detach())
            self.loss_parts["balance_loss"].append(balance_loss.detach())
        if model.training:
            self.running_loss.add(loss)
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, StreamedImages):
            return protect_workers(super().get_train_dataloader())
        place = (self._train_batch_size, self.accelerator.device, self.data_collator)
        return make_stream_loader(self.train_dataset, self.args, *place)

    def get_eval_dataloader(self, eval_dataset=None):
        # The Trainer would leave out the last batch of the evaluation too, and images that the accuracy is said of.
        drops_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return protect_workers(super().get_eval_dataloader(eval_dataset))
        finally:
            self.args.dataloader_drop_last = drops_last

    def evaluation_loop(self, *args, **kwargs):
        # Evaluation in half precision would cast the trained weights for good, and they would be saved so.
        casts = not self.is_in_train and (self.args.bf16_full_eval or self.args.fp16_full_eval)
        trained = [parameter.data.clone() for parameter in self.model.parameters()] if casts else []
        with self.memory_meter.measure(self.accelerator, f"{kwargs.get('metric_key_prefix', 'eval')}_") as measured:
            output = super().evaluation_loop(*args, **kwargs)
        for parameter, values in zip(self.model.parameters(), trained):
            parameter.data = values.to(parameter.device)
        return output._replace(metrics={**output.metrics, **measured})

    def _save_checkpoint(self, model, trial=None):
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            claim_checkpoint(folder, "trainer" if isinstance(self.model, PreTrainedModel) else "lora")
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal_checkpoint(folder)
            best = self.state.best_model_checkpoint
            drop_old_checkpoints(folder.parent, self.checkpoint_limit, self.state.global_step, best)

    def log(self, logs, start_time=None):
        if "loss" in logs:
            for name, values in self.loss_parts.items():
                if values:
                    logs[name] = self.accelerator.gather(torch.stack(values)).mean().item()
                    values.clear()
        super().log(logs, start_time)


def average_logged_loss(state: TrainerState) -> float:
    """Mean training loss of all steps; the Trainer's own forgets those before a resumption."""
    logs = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    steps = [0, *(step for step, _ in logs)]
    weighted = sum(loss * (step - before) for (step, loss), before in zip(logs, steps))
    return weighted / steps[-1] if logs else float("nan")


def adapt_arguments(training: TrainingArguments, num_samples: int) -> None:
    """
    Switch off what these scripts do themselves, and what would only warn.

    Raises:
        InputError: for a best model by something that is not measured, an evaluation without its measures, epochs
            without a batch, or a precision that the machine does not have.
    """
    for name, needed in NEEDED_TO_MEASURE.items():
        if (value := getattr(training, name)) != needed:
            raise InputError(f"`--{name}` {value!r} would leave the evaluation without its measures: leave it out.")
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in ("loss", "accuracy"):
        raise InputError(f"`--metric_for_best_model` takes loss or accuracy, but got {metric!r}.")
    refuse_empty_epochs(training, num_samples)
    if getattr(training, "enable_jit_checkpoint", False):
        raise InputError("Leave out `--enable_jit_checkpoint`: on SIGTERM a run saves a checkpoint unasked.")
    if training.fp16 and training.device.type == "cpu":
        raise InputError("`--fp16` has no effect on a CPU: leave it out, or take `--bf16 True --use_cpu True`.")
    # The data sets give what the model takes, and whole batches, in which the Trainer would look for single samples.
    training.remove_unused_columns = False
    # The Trainer would push every checkpoint, and write a model card of its own over ours.
    training.push_to_hub = False
    # Without an accelerator it does nothing but warn, once for every loader.
    training.dataloader_pin_memory = training.dataloader_pin_memory and training.device.type != "cpu"


def refuse_dispatch(training: TrainingArguments, train_dataset: torch.utils.data.Dataset) -> None:
    """Raise an `InputError` where one process would divide batches among all that have no samples yet."""
    is_dispatched = getattr(training.accelerator_config, "dispatch_batches", None)
    if is_dispatched and getattr(train_dataset, "on_device", False):
        raise InputError(
            "`dispatch_batches` in `--accelerator_config` divides samples, which are made on the device alone: leave "
            "it out, or pass `--augment_on_device False`."
        )


def train(
    model: torch.nn.Module,
    processor: ViTImageProcessorPil,
    datasets: tuple[torch.utils.data.Dataset, torch.utils.data.Dataset],
    arguments: dict[str, Any],
    training: TrainingArguments,
    metrics_of: Callable[[EvalPrediction], dict[str, float]],
    checkpoint: Path | None,
    verbose: bool = False,
) -> tuple[AiTTrainer, dict[str, Any]]:
    """
    Train, or go on from a checkpoint of an unfinished run, and evaluate.

    Returns:
        The trainer, and what it measured: the metrics, losses, seconds, steps and the history of evaluations.
    """
    train_dataset, eval_dataset = datasets
    adapt_arguments(training, len(train_dataset))  # type: ignore[arg-type]  # it has a length
    choose_workers(training, datasets)
    refuse_dispatch(training, train_dataset)
    if training.ddp_find_unused_parameters is None:
        # The Trainer would look for them in every step.
        training.ddp_find_unused_parameters = leaves_parameters_unused(model)
    termination = Termination()
    callbacks: list[TrainerCallback] = [
        EpochCallback(train_dataset),
        TerminationCallback(termination),
        # After whatever asks for a save.
        CompleteLogCallback(),
    ]
    if isinstance(train_dataset, StreamedImages):
        callbacks.append(SkipCallback(train_dataset))
    if arguments["reset_memory"]:
        callbacks.append(ResetMemoryCallback())
    if checkpoint is not None:
        callbacks.append(BestCheckpointCallback(checkpoint))
    try:
        trainer = AiTTrainer(
            model=model,
            args=training,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collate_batch,
            processing_class=processor,
            compute_metrics=metrics_of,
            callbacks=callbacks,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise InputError(f"The Trainer cannot use these arguments: {flatten_message(error)}") from error
    show_progress(trainer, trainer.running_loss, verbose)
    start = time.perf_counter()
    with termination.listen(training):
        first_step = take_steps(trainer, checkpoint, termination)
        seconds = time.perf_counter() - start
        metrics = trainer.evaluate()
    timings = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
    named = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    measured: dict[str, Any] = {name: value for name, value in named.items() if name not in timings}
    measured["eval_loss"] = measured.pop("loss")
    return trainer, {
        **measured,
        "train_loss": average_logged_loss(trainer.state),
        "train_seconds": seconds,
        "num_steps": trainer.state.global_step,
        "resumed_from_step": first_step,
        "history": collect_history(trainer.state),
    }
