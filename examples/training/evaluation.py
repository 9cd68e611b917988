"""Evaluating a finished checkpoint: the data that it was evaluated on, its logits, and accuracies."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from examples.data.arguments import DataArguments
from examples.data.files import shorten
from examples.data.images import ImageClassificationDataset, ImagePixelsDataset, collate_batch
from examples.data.loading import ImageData, load_image_data
from examples.data.questions import GroupedQuestionsDataset, QuestionsDataset, load_questions
from examples.data.sort_of_clevr import QUESTION_TYPES
from examples.errors import InputError
from examples.training.loading import load_checkpoint, load_image_processor, read_saved_json
from examples.training.metrics import score_groups
from examples.training.recipes import check_recipe
from examples.training.results import RESULTS_FILE
from examples.visualization.ablation import parse_slots, without_memory, without_slots
from modeling_ait import AiTConfig, AiTForRelationalReasoning, AiTPreTrainedModel


# What decides which samples are evaluated, of the arguments that a run records.
RECORDED_FIELDS = (
    *("dataset_name", "dataset_config_name", "generator_seed", "generator_train_size", "generator_test_size"),
    *("question_types", "group_questions", "image_column", "label_column", "train_split", "eval_split"),
    *("hold_out", "eval_fraction", "max_eval_samples", "skip_bad_images"),
)


@dataclass
class Evaluation:
    """What was measured: samples are images, or questions about them."""

    accuracy: float
    num_images: int
    num_samples: int
    accuracy_by_group: dict[str, float] | None = None


def find_indices(checkpoint: str, names: Mapping[Any, str], data: ImageData) -> list[int]:
    """
    The checkpoint's index of each class of the data set, by name, or the same one where a checkpoint has no names.

    Data may lack some of the checkpoint's labels, which is said; of a checkpoint without names they must have all.

    Raises:
        InputError: if they have other classes.
    """
    remedy = "evaluate it on the data set that it was trained on."
    if all(name == f"LABEL_{index}" for index, name in names.items()):
        if len(names) != len(data.label_names):
            raise InputError(
                f"{checkpoint!r} has {len(names)} labels without a name, but {data.name!r} has "
                f"{len(data.label_names)} classes: {remedy}"
            )
        return list(names)
    index_of = {name: index for index, name in names.items()}
    if strange := [name for name in data.label_names if name not in index_of]:
        raise InputError(
            f"{checkpoint!r} does not know the class {strange[0]!r} of {data.name!r}, but has {shorten([*index_of])}: "
            f"{remedy}"
        )
    if lacking := [name for name in index_of if name not in data.label_names]:
        print(f"Of the checkpoint's {len(names)} labels {data.name!r} has no {shorten(lacking)}.")
    return [index_of[name] for name in data.label_names]


def read_record(checkpoint: str) -> dict[str, Any]:
    """
    Read what a run of the training scripts has recorded beside its checkpoint; empty if there is nothing.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        record = read_saved_json(checkpoint, RESULTS_FILE) or {}
    except OSError:
        # Whether the checkpoint is there at all is said when it is loaded.
        return {}
    return record if isinstance(record.get("arguments"), dict) else {}


def choose_data(record: dict[str, Any], given: dict[str, Any]) -> DataArguments:
    """
    The data that a run was evaluated on, with whatever is given in its place; of other data nothing is recorded.

    Args:
        record: What the run has recorded, see `read_record`.
        given: Fields of `DataArguments` that were given.

    Raises:
        InputError: if neither names a data set, or what is recorded is of another type.
    """
    arguments = record.get("arguments", {})
    recorded = {name: arguments[name] for name in RECORDED_FIELDS if arguments.get(name) is not None}
    if given.get("dataset_name", recorded.get("dataset_name")) != recorded.get("dataset_name"):
        recorded = {}
    if "eval_split" in given:
        # A held-out part is one of another split.
        recorded = {name: value for name, value in recorded.items() if name not in ("hold_out", "eval_fraction")}
    if given.get("hold_out"):
        recorded.pop("eval_split", None)
    if given.get("hold_out") is False:
        recorded.pop("eval_fraction", None)
    check_recipe(recorded, (DataArguments,), f"What {RESULTS_FILE} records")
    chosen = {**recorded, **given}
    if "dataset_name" not in chosen:
        raise InputError(f"The checkpoint has no {RESULTS_FILE} that names its data: give `--dataset_name`.")
    return DataArguments(**chosen)


def is_unseen(record: dict[str, Any], data: DataArguments) -> bool:
    """Whether a run has recorded that it was trained on another data set than this, or a folder around or in it."""
    name = record.get("arguments", {}).get("dataset_name")
    if not isinstance(name, str):
        return False
    recorded, given = (Path(path).expanduser().resolve() for path in (name, str(data.dataset_name)))
    return not recorded.is_relative_to(given) and not given.is_relative_to(recorded)


def is_recorded_data(record: dict[str, Any], data: DataArguments) -> bool:
    """Whether the data are those that the run has recorded its accuracy on."""
    arguments = record.get("arguments", {})
    defaults = {field.name: field.default for field in dataclasses.fields(DataArguments)}
    # All questions of an image at once or one by one are the same questions.
    names = [name for name in RECORDED_FIELDS if name != "group_questions"]
    return bool(record) and all(arguments.get(name, defaults[name]) == getattr(data, name) for name in names)


def predict_logits(model: PreTrainedModel, dataset: Dataset, batch_size: int) -> torch.Tensor:
    """Logits of all samples in their order, (num_samples, num_labels), float32 on the CPU."""
    device, parts = next(model.parameters()).device, []
    loader: DataLoader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate_batch)
    for batch in tqdm(loader, unit="batch", leave=False, disable=None):
        inputs = {name: values.to(device) for name, values in batch.items() if name != "labels"}
        with torch.inference_mode():
            logits = model(**inputs).logits
        parts.append(logits.float().cpu().flatten(0, -2))
    return torch.cat(parts)


def leave_out(model: PreTrainedModel, slots: Sequence[str], all_memory: bool) -> AbstractContextManager[None]:
    """In this context no token retrieves some slots, as `parse_slots` reads them, or anything at all."""
    if all_memory:
        return without_memory(model)
    return without_slots(model, parse_slots(slots, model)) if slots else nullcontext()


def evaluate_checkpoint(
    checkpoint: str,
    model_class: type[AiTPreTrainedModel],
    arguments: DataArguments,
    batch_size: int,
    device: str,
    removed_slots: Sequence[str] = (),
    remove_memory: bool = False,
    is_unseen: bool = False,
) -> Evaluation:
    """
    Evaluate a checkpoint of either head on the data's evaluation split.

    Args:
        checkpoint: Folder or Hub id.
        model_class: Its class, see `choose_class`.
        arguments: The data.
        batch_size: Samples in a batch; no prediction depends on it, but for the last bits of its logits.
        device: Where the model runs.
        removed_slots: Slots that no token retrieves, such as `7` or, of a layer, `2:7`.
        remove_memory: Whether no token retrieves anything.
        is_unseen: Whether its run has recorded that it was trained on other data.

    Raises:
        InputError: if the checkpoint or the data cannot be loaded, or do not fit each other, or there is no such slot.
    """
    takes_question = model_class is AiTForRelationalReasoning
    model = load_checkpoint(checkpoint, model_class, is_classifier_new=False).eval().to(device)
    config: AiTConfig = model.config
    load = load_questions if takes_question else load_image_data
    data = load(arguments, trains=False, is_unseen=is_unseen)
    indices = np.array(find_indices(checkpoint, config.id2label or {}, data))
    processor = load_image_processor(checkpoint, config, arguments, is_resized=False)
    pixels = ImagePixelsDataset(data.evaluation, data.image_column, processor, cache=takes_question)
    num_images = len(data.evaluation)
    if not takes_question:
        labels = data.evaluation[data.label_column][:]
        dataset: Dataset = ImageClassificationDataset(pixels, labels)
    else:
        kind = GroupedQuestionsDataset if arguments.group_questions else QuestionsDataset
        dataset = questions = kind(data.evaluation, pixels, arguments.question_types or list(QUESTION_TYPES))
    with leave_out(model, removed_slots, remove_memory):
        predictions = predict_logits(model, dataset, batch_size).argmax(dim=-1).numpy()
    if not takes_question:
        return Evaluation(float((predictions == indices[labels]).mean()), num_images, len(labels))
    # From the checkpoint's index of an answer to the data set's; one that the data set lacks is wrong.
    answer_of = np.full(model.num_labels, -1)
    answer_of[indices] = np.arange(len(indices))
    answers = answer_of[predictions]
    groups = score_groups(answers, questions)
    return Evaluation(float((answers == questions.answers).mean()), num_images, len(answers), groups)
