"""Training as an explicit Accelerate loop: what the Trainer does, step by step."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import IntervalStrategy

from examples.data.images import collate_batch
from examples.data.streaming import StreamedImages
from examples.errors import LOADING_ERRORS, InputError, flatten_message
from examples.training.arguments import INTERVALS, refuse_empty_epochs
from examples.training.checkpoints import claim_checkpoint, clear_place, drop_old_checkpoints, seal_checkpoint
from examples.training.memory_use import MemoryMeter
from examples.training.metrics import Accuracy
from examples.training.model import leaves_parameters_unused
from examples.training.progress import Progress, RunningMean
from examples.training.results import refuse_divergence, write_json
from examples.training.streams import make_stream_loader
from examples.training.termination import ObeyParent, Termination, leave
from examples.training.workers import choose_workers


PROGRESS_FILE = "progress.json"
# The training arguments that this loop reads. Any other that is set is refused.
USED_ARGUMENTS = (
    *("output_dir", "resume_from_checkpoint", "seed", "use_cpu", "bf16", "disable_tqdm", "dataloader_num_workers"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("activation_checkpointing", "gradient_checkpointing", "dataloader_drop_last", "max_steps", "num_train_epochs"),
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "logging_strategy", "logging_steps"),
    *("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"),
    *("push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "hub_revision"),
)


def evaluate(model: torch.nn.Module, loader, accelerator: Accelerator, meter: MemoryMeter) -> dict[str, float]:
    """Accuracy and mean loss over the whole evaluation split, each sample once, and what the meter measures."""
    model.eval()
    accuracy, total_loss, num_samples = Accuracy(), 0.0, 0
    with meter.measure(accelerator) as measured:
        for batch in loader:
            with torch.inference_mode():
                logits = model(pixel_values=batch["pixel_values"]).logits
            logits, labels = accelerator.gather_for_metrics((logits, batch["labels"]))
            total_loss += torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum").item()
            num_samples += len(labels)
            accuracy.add_batch(predictions=logits.argmax(dim=-1).cpu(), references=labels.cpu())
    return {"accuracy": accuracy.compute()["accuracy"], "eval_loss": total_loss / num_samples, **measured}


def save_checkpoint(
    accelerator: Accelerator, training: TrainingArguments, step: int, progress: dict[str, Any], scheduler
) -> None:
    """Write `checkpoint-STEP` aside and rename it at the end, then drop the oldest beyond the limit."""
    refuse_divergence("loss_sum", progress["loss_sum"])
    output_dir = Path(str(training.output_dir))
    staging = output_dir / f".save-checkpoint-{step}"
    if accelerator.is_main_process:
        claim_checkpoint(staging, "accelerate")
    accelerator.wait_for_everyone()
    accelerator.save_state(str(staging))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        # Beside the numbers, because Accelerate would pickle it and execute what the pickle says.
        write_json(staging / PROGRESS_FILE, {**progress, "scheduler": scheduler.state_dict()})
        seal_checkpoint(staging)
        final = output_dir / f"checkpoint-{step}"
        clear_place(final)
        os.replace(staging, final)
        drop_old_checkpoints(output_dir, training.save_total_limit, step)


def is_due(strategy: IntervalStrategy | str, every: float, step: int, is_epoch_end: bool) -> bool:
    """Whether something with a strategy of the training arguments falls on this step."""
    if strategy == IntervalStrategy.EPOCH:
        return is_epoch_end
    return strategy == IntervalStrategy.STEPS and step % int(every) == 0


def make_optimizer(model: torch.nn.Module, training: TrainingArguments) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, as the Trainer applies it."""
    groups: list[dict] = [{"params": [], "weight_decay": training.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        groups["layernorm" in name or name.endswith("bias")]["params"].append(parameter)
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )


def make_scheduler(optimizer, training: TrainingArguments, num_steps: int):
    """The schedule of the arguments. It is not prepared, which would step it once for every process."""
    return get_scheduler(
        training.lr_scheduler_type,
        optimizer,
        num_warmup_steps=training.get_warmup_steps(num_steps),
        num_training_steps=num_steps,
        scheduler_specific_kwargs=training.lr_scheduler_kwargs,  # type: ignore[arg-type]  # a mapping after parsing
    )


def count_group(num_batches: int, epoch_length: int, accumulation_steps: int) -> int:
    """Count the batches that are accumulated together with the next one, after `num_batches` of an epoch."""
    first = num_batches - num_batches % accumulation_steps
    return min(accumulation_steps, epoch_length - first)


def make_loaders(datasets, training: TrainingArguments) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and the evaluation split."""
    refuse_empty_epochs(training, len(datasets[0]))
    choose_workers(training, datasets)
    options: dict[str, Any] = {
        "num_workers": training.dataloader_num_workers,
        "persistent_workers": training.dataloader_persistent_workers,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": collate_batch,
        "worker_init_fn": ObeyParent(),
    }
    eval_loader = DataLoader(datasets[1], batch_size=training.per_device_eval_batch_size, **options)
    if isinstance(datasets[0], StreamedImages):
        batch_size = training.per_device_train_batch_size
        return make_stream_loader(datasets[0], training, batch_size, training.device), eval_loader
    train_loader = DataLoader(
        datasets[0],
        batch_size=training.per_device_train_batch_size,
        shuffle=True,
        drop_last=training.dataloader_drop_last,
        # Of its own, so that opening the loader in a resumed run takes nothing from dropout's random stream.
        generator=torch.Generator().manual_seed(training.seed),
        **options,
    )
    return train_loader, eval_loader


def make_accelerator(model: torch.nn.Module, training: TrainingArguments) -> Accelerator:
    """Accelerator with the precision and accumulation of the arguments."""
    return Accelerator(
        cpu=training.use_cpu,
        mixed_precision="bf16" if training.bf16 else "no",
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        # The order of the samples depends on seed and epoch alone, so that a resumed run sees the same.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=training.seed),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=leaves_parameters_unused(model))],
    )


def prepare(accelerator: Accelerator, model, optimizer, loaders) -> tuple:
    """Let Accelerate prepare everything but the loader of a stream, which knows the processes itself."""
    if isinstance(loaders[0].dataset, StreamedImages):
        model, optimizer, eval_loader = accelerator.prepare(model, optimizer, loaders[1])
        return model, optimizer, loaders[0], eval_loader
    return accelerator.prepare(model, optimizer, *loaders)


@dataclass
class LossLog:
    """The task loss and the balance loss apart, since they were last taken."""

    coefficient: float | None
    parts: dict[str, list[torch.Tensor]] = field(default_factory=lambda: {"task_loss": [], "balance_loss": []})

    def add(self, outputs) -> None:
        """Take the losses of a batch; a model without balance loss has no parts."""
        balance_loss = outputs.get("balance_loss")
        if balance_loss is not None:
            self.parts["balance_loss"].append(balance_loss.detach())
            self.parts["task_loss"].append((outputs.loss - self.coefficient * balance_loss).detach())

    def take_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all processes, and forget them."""
        means = {name: accelerator.gather(torch.stack(v)).mean().item() for name, v in self.parts.items() if v}
        for values in self.parts.values():
            values.clear()
        return means


def train_batch(accelerator: Accelerator, model, optimizer, batch, group_size: int, training: TrainingArguments):
    """Run one batch forward and backward, and step at the end of its group of accumulated batches."""
    model.train()
    with accelerator.accumulate(model):
        outputs = model(**batch)
        # Accelerate divides by the accumulation steps, although the last group of an epoch may have fewer batches.
        accelerator.backward(outputs.loss * (training.gradient_accumulation_steps / group_size))
        if accelerator.sync_gradients and training.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return outputs


def load_progress(accelerator: Accelerator, scheduler, checkpoint: Path | None) -> dict[str, Any]:
    """Go back to where a checkpoint was written, if there is one; return its numbers, or those of the start."""
    if checkpoint is None:
        return {"step": 0, "epoch": 0, "num_batches": 0, "loss_sum": 0.0, "seconds": 0.0}
    try:
        accelerator.load_state(str(checkpoint))
        progress = json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
        scheduler.load_state_dict(progress["scheduler"])
    except LOADING_ERRORS as error:
        raise InputError(f"{checkpoint} cannot be resumed: {flatten_message(error)}") from error
    return progress


def count_steps(training: TrainingArguments, num_batches: int) -> tuple[int, int]:
    """Steps of an epoch and of the training; intervals that are a share of all steps become numbers of steps."""
    steps_per_epoch = math.ceil(num_batches / training.gradient_accumulation_steps)
    num_steps = training.max_steps if training.max_steps > 0 else int(training.num_train_epochs * steps_per_epoch)
    for name in INTERVALS:
        # As the Trainer does.
        if 0 < (getattr(training, name) or 0) < 1:
            setattr(training, name, math.ceil(getattr(training, name) * num_steps))
    return steps_per_epoch, num_steps


def run_loop(
    accelerator: Accelerator,
    model,
    loaders,
    training: TrainingArguments,
    checkpoint: Path | None,
    reset_memory: bool,
    termination: Termination,
    verbose: bool = False,
) -> dict[str, Any]:
    """Train, or go on from a checkpoint, and evaluate; return what was measured. Asked to end, it saves first."""
    model, optimizer, train_loader, eval_loader = prepare(accelerator, model, make_optimizer(model, training), loaders)
    steps_per_epoch, num_steps = count_steps(training, len(train_loader))
    scheduler = make_scheduler(optimizer, training, num_steps)
    set_seed(training.seed)
    progress = load_progress(accelerator, scheduler, checkpoint)
    first_step, start = progress["step"], clock() - progress["seconds"]
    step, epoch, num_batches = (progress[name] for name in ("step", "epoch", "num_batches"))
    loss_sum = torch.zeros((), device=accelerator.device) + progress["loss_sum"]
    meter = MemoryMeter(accelerator.unwrap_model(model))
    log = LossLog(getattr(accelerator.unwrap_model(model).config, "balance_loss_coef", None))
    show = (not training.disable_tqdm, accelerator.is_main_process, verbose)
    shown = Progress(num_steps, num_steps / steps_per_epoch, step, RunningMean(), *show)
    while step < num_steps:
        loaders[0].dataset.set_epoch(epoch)
        if isinstance(loaders[0].dataset, StreamedImages):
            loaders[0].dataset.skip(num_batches)
        if reset_memory and num_batches == 0:
            accelerator.unwrap_model(model).reset_memories()
        batches = accelerator.skip_first_batches(train_loader, num_batches) if num_batches else train_loader
        # A prepared loader counts its own epochs, which would start at 0 in a resumed run.
        batches.set_epoch(epoch)
        for batch in batches:
            group_size = count_group(num_batches, len(train_loader), training.gradient_accumulation_steps)
            outputs = train_batch(accelerator, model, optimizer, batch, group_size, training)
            num_batches += 1
            loss_sum += outputs.loss.detach() / group_size
            log.add(outputs)
            shown.loss.add(outputs.loss)
            if not accelerator.sync_gradients:
                continue

            scheduler.step()
            step += 1
            shown.advance(step)
            is_epoch_end = num_batches == len(train_loader)
            epoch, num_batches = (epoch + 1, 0) if is_epoch_end else (epoch, num_batches)
            if is_due(training.logging_strategy, training.logging_steps, step, is_epoch_end):
                shown.show_log(step, {**log.take_means(accelerator), "learning_rate": scheduler.get_last_lr()[0]})
            if is_due(training.eval_strategy, training.eval_steps or training.logging_steps, step, is_epoch_end):
                evaluated = evaluate(model, eval_loader, accelerator, meter)
                shown.show(step / steps_per_epoch, {**evaluated, "eval_accuracy": evaluated["accuracy"]})
            elif is_epoch_end:
                shown.show(epoch)
            is_asked = termination.agree(training, step)
            if is_asked or is_due(training.save_strategy, training.save_steps, step, is_epoch_end):
                progress = {"step": step, "epoch": epoch, "num_batches": num_batches}
                progress |= {"loss_sum": accelerator.reduce(loss_sum, "mean").item(), "seconds": clock() - start}
                save_checkpoint(accelerator, training, step, progress, scheduler)
            if step == num_steps:
                break
            if is_asked:
                leave(step, num_steps, accelerator.is_main_process)
    shown.close()
    return {
        **evaluate(model, eval_loader, accelerator, meter),
        "train_loss": accelerator.reduce(loss_sum, "mean").item() / num_steps,
        "train_seconds": clock() - start,
        "num_steps": num_steps,
        "resumed_from_step": first_step,
    }
