"""
Does a prediction depend on its batch? Evaluate checkpoints at several batch sizes and in several orders.

    python -m examples.evaluate_batches --checkpoints runs/a runs/b --dataset_name triangle --output batches.json

Each setting is run twice: with the memory read only, as this model infers, and with `update_memory=True`, as the
official code does, which also writes what it evaluates. Every setting starts from the memories of the checkpoint.
"""

import statistics
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from examples.data.arguments import DataArguments, refuse_augmentation, refuse_streaming
from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from examples.data.loading import ImageData


@dataclass
class BatchArguments:
    checkpoints: list[str] = field(default_factory=list, metadata={"help": "Folders or Hub ids of AiT checkpoints."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 16, 512], metadata={"help": "Batch sizes."})
    num_orders: int = field(default=3, metadata={"help": "Orders of the images; the first is the data set's own."})
    note: str | None = field(default=None, metadata={"help": "What a reader of the results has to know."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to."})


def predict(
    model: "PreTrainedModel", pixels: "torch.Tensor", order: "np.ndarray", batch_size: int, update_memory: bool
) -> "torch.Tensor":
    """Classify all images in an order, (num_images,); the predictions come in the order of the images."""
    import torch

    predictions = torch.empty(len(pixels), dtype=torch.long)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = torch.from_numpy(order[start : start + batch_size])
            predictions[rows] = model(pixels[rows], update_memory=update_memory).logits.argmax(dim=-1)
    return predictions


def evaluate_checkpoint(
    checkpoint: str, data: "ImageData", arguments: BatchArguments, data_arguments: DataArguments
) -> list[dict[str, Any]]:
    """Accuracy in each setting, and the share of predictions that differ from those in the first one."""
    import numpy as np
    import torch

    from examples.data.images import ImagePixelsDataset
    from examples.training.evaluation import find_indices
    from examples.training.loading import load_checkpoint, load_image_processor
    from modeling_ait import AiTForImageClassification

    model = load_checkpoint(checkpoint, AiTForImageClassification, is_classifier_new=False).eval()
    indices = find_indices(checkpoint, dict(model.config.id2label or {}), data)
    processor = load_image_processor(checkpoint, model.config, data_arguments, is_resized=False)
    dataset = ImagePixelsDataset(data.evaluation, data.image_column, processor)
    pixels = dataset.get_batch(range(len(dataset)))
    labels = torch.tensor([indices[label] for label in data.evaluation[data.label_column][:]])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows: list[dict[str, Any]] = []
    for update_memory in (False, True):
        reference = None
        for batch_size in arguments.batch_sizes:
            for order_index in range(arguments.num_orders):
                order = np.arange(len(labels))
                if order_index > 0:
                    order = np.random.default_rng(order_index).permutation(len(labels))
                model.load_state_dict(state)
                predictions = predict(model, pixels, order, batch_size, update_memory)
                reference = predictions if reference is None else reference
                rows.append(
                    {
                        "update_memory": update_memory,
                        "batch_size": batch_size,
                        "order": order_index,
                        "accuracy": (predictions == labels).float().mean().item(),
                        "share_changed": (predictions != reference).float().mean().item(),
                    }
                )
    return rows


def summarize(checkpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each semantics and batch size: mean accuracy over checkpoints and orders, and what the order changes."""
    groups: dict[tuple[bool, int], list[list[dict[str, Any]]]] = {}
    for checkpoint in checkpoints:
        settings = {(row["update_memory"], row["batch_size"]) for row in checkpoint["rows"]}
        for setting in settings:
            rows = [row for row in checkpoint["rows"] if (row["update_memory"], row["batch_size"]) == setting]
            groups.setdefault(setting, []).append(rows)
    summary = []
    for (update_memory, batch_size), members in sorted(groups.items()):
        means = [100 * statistics.mean(row["accuracy"] for row in rows) for rows in members]
        ranges = [
            100 * (max(row["accuracy"] for row in rows) - min(row["accuracy"] for row in rows)) for rows in members
        ]
        summary.append(
            {
                "update_memory": update_memory,
                "batch_size": batch_size,
                "accuracy_mean": statistics.mean(means),
                "accuracy_stdev": statistics.stdev(means) if len(means) > 1 else None,
                "largest_range_over_orders": max(ranges),
                "largest_share_changed": max(100 * row["share_changed"] for rows in members for row in rows),
            }
        )
    return summary


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        (BatchArguments, DataArguments), prog="python -m examples.evaluate_batches", description=__doc__
    )
    arguments, data_arguments = parser.parse(sys.argv[1:] if argv is None else argv)
    refuse_streaming(data_arguments, "evaluate_batches")
    refuse_augmentation(data_arguments)
    if not arguments.checkpoints:
        raise InputError("Name at least one folder or Hub id with `--checkpoints`.")
    for flag, values in (("--batch_sizes", arguments.batch_sizes), ("--num_orders", [arguments.num_orders])):
        if min(values) < 1:
            raise InputError(f"`{flag}` must be at least 1, but got {min(values)}.")
    output = None if arguments.output is None else make_place(arguments.output, "evaluation batches")
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from tqdm.auto import tqdm

    from examples.data.loading import load_image_data
    from examples.training.evaluation import is_unseen, read_record
    from examples.training.progress import quieten_libraries
    from examples.training.results import describe_command, describe_setting, write_json

    quieten_libraries(verbose=False)
    is_new = all(is_unseen(read_record(checkpoint), data_arguments) for checkpoint in arguments.checkpoints)
    data = load_image_data(data_arguments, trains=False, is_unseen=is_new)
    checkpoints = [
        {"checkpoint": checkpoint, "rows": evaluate_checkpoint(checkpoint, data, arguments, data_arguments)}
        for checkpoint in tqdm(arguments.checkpoints, unit="checkpoint", leave=False, disable=None)
    ]
    batch_summary = summarize(checkpoints)
    results = {
        **describe_setting("evaluation batches", describe_command("examples.evaluate_batches"), []),
        "note": arguments.note,
        "checkpoints": checkpoints,
        "batch_summary": batch_summary,
    }
    for row in batch_summary:
        print(
            f"update_memory={row['update_memory']}, batch {row['batch_size']}: {row['accuracy_mean']:.2f} %, over "
            f"orders up to {row['largest_range_over_orders']:.2f} points, predictions changed up to "
            f"{row['largest_share_changed']:.2f} %"
        )
    if output is not None:
        write_json(output, results)


if __name__ == "__main__":
    run_script(main)
