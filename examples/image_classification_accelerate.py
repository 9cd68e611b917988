"""
The run of `examples/image_classification.py` as an explicit Accelerate loop.

    accelerate launch -m examples.image_classification_accelerate examples/recipes/digits.yaml
    python -m examples.image_classification_accelerate examples/recipes/digits.yaml --output_dir runs/digits_loop

It takes the same recipes and flags and writes the same folder. Of transformers' training arguments it uses those for
AdamW, the schedule, batches, epochs, accumulation, bf16, clipping, evaluation, checkpoints and the Hub.
"""

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, set_seed
from tqdm.auto import tqdm
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import IntervalStrategy

from examples.data.images import make_datasets
from examples.data.loading import load_image_data
from examples.errors import InputError
from examples.training.arguments import parse_arguments
from examples.training.metrics import Accuracy
from examples.training.model import build_model
from examples.training.publishing import push_folder
from examples.training.results import describe_command, report_run
from examples.training.run_folder import collect_arguments, list_checkpoints, prepare_output_folder


PROGRESS_FILE = "progress.json"


def evaluate(model: torch.nn.Module, loader, accelerator: Accelerator) -> dict[str, float]:
    """Accuracy and mean loss over the whole evaluation split, each sample once, whatever the number of processes."""
    model.eval()
    accuracy, total_loss, num_samples = Accuracy(), 0.0, 0
    for batch in loader:
        with torch.inference_mode():
            logits = model(pixel_values=batch["pixel_values"]).logits
        logits, labels = accelerator.gather_for_metrics((logits, batch["labels"]))
        total_loss += torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum").item()
        num_samples += len(labels)
        accuracy.add_batch(predictions=logits.argmax(dim=-1).cpu(), references=labels.cpu())
    return {"accuracy": accuracy.compute()["accuracy"], "eval_loss": total_loss / num_samples}


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, progress: dict, limit: int | None) -> None:
    """Write `checkpoint-STEP` aside and rename it at the end, then drop the oldest beyond the limit."""
    staging = output_dir / f".save-checkpoint-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(staging))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (staging / PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")
        final = output_dir / f"checkpoint-{step}"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
        if limit is not None:
            for folder in list_checkpoints(output_dir)[limit:]:
                shutil.rmtree(folder)


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


def main(argv: list[str] | None = None) -> None:
    data_arguments, model_arguments, run_arguments, training = parse_arguments(
        sys.argv[1:] if argv is None else argv, __doc__
    )
    arguments = collect_arguments(data_arguments, model_arguments, training=training)
    data = load_image_data(data_arguments)
    model, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed)
    train_dataset, eval_dataset = make_datasets(data, data_arguments, processor, training.seed)
    # The second name is the older one; transformers 5.17 has no other.
    if getattr(training, "activation_checkpointing", None) or training.gradient_checkpointing:
        model.gradient_checkpointing_enable()

    accelerator = Accelerator(
        cpu=training.use_cpu,
        mixed_precision="bf16" if training.bf16 else "no",
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        # The order of the samples depends on seed and epoch alone, so that a resumed run sees the same.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=training.seed),
        # A detached write leaves parameters without gradient, for which DDP would wait.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                find_unused_parameters=not getattr(model.config, "differentiable_write", True)
            )
        ],
    )
    output_dir = Path(str(training.output_dir))
    with accelerator.main_process_first():
        checkpoint = (
            prepare_output_folder(training, arguments, run_arguments.restart, PROGRESS_FILE)
            if accelerator.is_main_process
            else None
        )
    checkpoint = broadcast_object_list([checkpoint])[0]

    # A generator of its own, so that opening the loader in a resumed run takes nothing from dropout's random stream.
    generator = torch.Generator().manual_seed(training.seed)
    loader_options: dict[str, Any] = {
        "num_workers": training.dataloader_num_workers,
        "pin_memory": torch.cuda.is_available(),
    }
    train_loader = torch.utils.data.DataLoader(
        train_dataset,
        batch_size=training.per_device_train_batch_size,
        shuffle=True,
        drop_last=training.dataloader_drop_last,
        generator=generator,
        **loader_options,
    )
    eval_loader = torch.utils.data.DataLoader(
        eval_dataset, batch_size=training.per_device_eval_batch_size, **loader_options
    )
    optimizer = make_optimizer(model, training)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(model, optimizer, train_loader, eval_loader)

    steps_per_epoch = math.ceil(len(train_loader) / training.gradient_accumulation_steps)
    num_steps = training.max_steps if training.max_steps > 0 else int(training.num_train_epochs * steps_per_epoch)
    scheduler = get_scheduler(
        training.lr_scheduler_type,
        optimizer,
        num_warmup_steps=training.get_warmup_steps(num_steps),
        num_training_steps=num_steps,
        scheduler_specific_kwargs=training.lr_scheduler_kwargs,  # type: ignore[arg-type]  # a mapping after parsing
    )
    # Registered, not prepared: a prepared schedule would be stepped once for every process.
    accelerator.register_for_checkpointing(scheduler)

    step, epoch, num_batches, seconds = 0, 0, 0, 0.0
    loss_sum = torch.zeros((), device=accelerator.device)
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        progress = json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
        step, epoch, num_batches = progress["step"], progress["epoch"], progress["num_batches"]
        loss_sum += progress["loss_sum"]
        seconds = progress["seconds"]
    else:
        set_seed(training.seed)

    first_step = step
    start = time.perf_counter() - seconds
    bar = tqdm(total=num_steps, initial=step, disable=training.disable_tqdm or not accelerator.is_main_process)
    coefficient = getattr(accelerator.unwrap_model(model).config, "balance_loss_coef", None)
    parts: dict[str, list[torch.Tensor]] = {"task_loss": [], "balance_loss": []}
    while step < num_steps:
        train_dataset.set_epoch(epoch)
        if model_arguments.reset_memory and num_batches == 0:
            accelerator.unwrap_model(model).reset_memories()
        batches = accelerator.skip_first_batches(train_loader, num_batches) if num_batches else train_loader
        # A prepared loader counts its own epochs, which would start at 0 in a resumed run.
        batches.set_epoch(epoch)
        for batch in batches:
            model.train()
            with accelerator.accumulate(model):
                outputs = model(**batch)
                accelerator.backward(outputs.loss)
                if accelerator.sync_gradients and training.max_grad_norm:
                    accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            num_batches += 1
            loss_sum += outputs.loss.detach()
            balance_loss = outputs.get("balance_loss")
            if balance_loss is not None:
                parts["balance_loss"].append(balance_loss.detach())
                parts["task_loss"].append((outputs.loss - coefficient * balance_loss).detach())
            if not accelerator.sync_gradients:
                continue

            scheduler.step()
            step += 1
            bar.update()
            is_epoch_end = num_batches == len(train_loader)
            if is_epoch_end:
                epoch, num_batches = epoch + 1, 0
            if is_due(training.logging_strategy, training.logging_steps, step, is_epoch_end):
                logs = {name: accelerator.gather(torch.stack(v)).mean().item() for name, v in parts.items() if v}
                accelerator.print(json.dumps({**logs, "learning_rate": scheduler.get_last_lr()[0], "step": step}))
                for values in parts.values():
                    values.clear()
            if is_due(training.eval_strategy, training.eval_steps or training.logging_steps, step, is_epoch_end):
                accelerator.print(json.dumps({**evaluate(model, eval_loader, accelerator), "step": step}))
            if is_due(training.save_strategy, training.save_steps, step, is_epoch_end):
                progress = {
                    "step": step,
                    "epoch": epoch,
                    "num_batches": num_batches,
                    "loss_sum": accelerator.reduce(loss_sum, "mean").item(),
                    "seconds": time.perf_counter() - start,
                }
                save_checkpoint(accelerator, output_dir, step, progress, training.save_total_limit)
            if step == num_steps:
                break
    bar.close()

    metrics = evaluate(model, eval_loader, accelerator)
    train_loss = accelerator.reduce(loss_sum, "mean").item() / (num_steps * training.gradient_accumulation_steps)
    if accelerator.is_main_process:
        unwrapped = accelerator.unwrap_model(model)
        unwrapped.save_pretrained(output_dir)
        report_run(
            unwrapped,
            processor,
            data,
            arguments,
            training,
            {
                **metrics,
                "train_loss": train_loss,
                "train_seconds": time.perf_counter() - start,
                "num_steps": num_steps,
                "resumed_from_step": first_step,
            },
            describe_command("examples.image_classification_accelerate"),
        )
        if training.push_to_hub:
            push_folder(training)
    # Leaving while another process still reports can hang it in its communication.
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
