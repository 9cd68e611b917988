"""
Train AiT, or a baseline, to answer questions about images (Sort-of-CLEVR), with transformers' Trainer.

    python -m examples.relational_reasoning examples/recipes/sort_of_clevr_cpu.yaml
    python -m examples.relational_reasoning examples/recipes/sort_of_clevr_cpu.yaml --architecture relation_network

It takes the recipes and flags of `examples.image_classification` and writes the same folder. `results.json` has the
accuracy for each type and subtype of question, beside what a reader of the question alone could reach.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from transformers import EvalPrediction

from examples.benchmarks import RELATIONAL_REASONING
from examples.data import ImageData, ImagePixels, find_benchmark, load_splits
from examples.image_classification import train
from examples.recipes import DataArguments, InputError, parse_arguments
from examples.runs import (
    Accuracy,
    build_model,
    collect_arguments,
    describe_command,
    push_folder,
    report_run,
)
from examples.sort_of_clevr import ANSWERS, NUM_OBJECTS, QUESTION_SIZE, QUESTION_TYPES, SUBTYPES


RELATIONAL = "relational"


class Questions(torch.utils.data.Dataset):
    """
    One sample for each question: `pixel_values` (3, height, width), `question` (18,) and `labels` ().

    `bits` (num_questions, 18) and `answers` (num_questions,) hold all of them, in the order of the samples.
    """

    def __init__(self, data: datasets.Dataset, pixels: ImagePixels, types: list[str]):
        self.pixels = pixels
        bits = np.asarray(data["questions"][:], dtype=np.uint8)  # (num_images, questions per image, 18)
        answers = np.asarray(data["answers"][:], dtype=np.int64)
        is_wanted = np.isin(name_types(bits.reshape(-1, QUESTION_SIZE)), types)
        self.image_indices = np.repeat(np.arange(len(bits)), bits.shape[1])[is_wanted]
        self.bits = bits.reshape(-1, QUESTION_SIZE)[is_wanted]
        self.answers = answers.reshape(-1)[is_wanted]

    def __len__(self) -> int:
        return len(self.answers)

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": self.pixels[int(self.image_indices[index])],
            "question": torch.from_numpy(self.bits[index]).float(),
            "labels": torch.tensor(self.answers[index]),
        }


def name_types(bits: np.ndarray) -> np.ndarray:
    """The type of each question, (num_questions, 18) -> (num_questions,) of names."""
    return np.asarray(QUESTION_TYPES)[bits[:, 2 * NUM_OBJECTS : 2 * NUM_OBJECTS + 3].argmax(axis=1)]


def group_questions(bits: np.ndarray) -> dict[str, np.ndarray]:
    """
    Masks (num_questions,) of the groups to report: each type, all relational ones, and each subtype.

    A group without questions is left out.
    """
    types, subtypes = name_types(bits), bits[:, 2 * NUM_OBJECTS + 3 :].argmax(axis=1)
    groups = {name: types == name for name in QUESTION_TYPES}
    groups[RELATIONAL] = types != "non-relational"
    for name, subtype_names in SUBTYPES.items():
        for index, subtype in enumerate(subtype_names):
            groups[f"{name}: {subtype}"] = (types == name) & (subtypes == index)
    return {name: mask for name, mask in groups.items() if mask.any()}


def answer_from_questions_alone(train_data: Questions, eval_data: Questions) -> np.ndarray:
    """
    Give the answer most frequent in training for a question's type and subtype, (num_questions,).

    The colours are left out: the answers do not depend on them, and counting them apart would fit noise.
    """
    counts: dict[bytes, Counter] = defaultdict(Counter)
    for bits, answer in zip(train_data.bits[:, 2 * NUM_OBJECTS :], train_data.answers.tolist()):
        counts[bits.tobytes()][answer] += 1
    most_frequent = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    return np.array([most_frequent.get(bits.tobytes(), -1) for bits in eval_data.bits[:, 2 * NUM_OBJECTS :]])


def score_groups(predictions: np.ndarray, data: Questions) -> dict[str, float]:
    """Accuracy of predictions (num_questions,) in each group of questions."""
    is_right = predictions == data.answers
    return {name: float(is_right[mask].mean()) for name, mask in group_questions(data.bits).items()}


def make_metrics(data: Questions) -> Callable[[EvalPrediction], dict[str, Any]]:
    """Return the function that the Trainer calls with the predictions for all questions, in their order."""

    def compute(prediction: EvalPrediction) -> dict[str, Any]:
        predictions = np.argmax(prediction.predictions, axis=-1)
        assert np.array_equal(prediction.label_ids, data.answers), "the questions came in another order"
        accuracy = Accuracy().compute(predictions=predictions, references=prediction.label_ids)
        return {**accuracy, "accuracy_by_group": score_groups(predictions, data)}

    return compute


def load_questions(arguments: DataArguments) -> ImageData:
    """
    Load the splits: `sort_of_clevr`, or a Hub id or folder with its columns.

    Raises:
        InputError: if the data set has no questions.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.task != RELATIONAL_REASONING:
        raise InputError(f"{arguments.dataset_name!r} has no questions: train on it with `examples.{benchmark.task}`.")
    splits = load_splits(arguments)
    parts = []
    for flag, split, limit in (
        ("--train_split", arguments.train_split, arguments.max_train_samples),
        ("--eval_split", arguments.eval_split or "test", arguments.max_eval_samples),
    ):
        if split not in splits:
            raise InputError(f"There is no split {split!r} (`{flag}`). The data set has: {', '.join(splits)}.")
        data = splits[split]
        missing = {"image", "questions", "answers"} - set(data.column_names)
        if missing:
            raise InputError(
                f"The data set lacks the columns {', '.join(sorted(missing))}; "
                f"it has: {', '.join(data.column_names)}. "
                "Pass `--dataset_name sort_of_clevr`, or a data set with its columns."
            )
        if limit is not None and limit < 1:
            raise InputError(f"At least 1 image is needed in each split, but got a limit of {limit}.")
        data = data.select(range(min(limit or len(data), len(data))))
        parts.append(data.cast_column("image", datasets.Image(decode=False)))
    return ImageData(str(arguments.dataset_name), parts[0], parts[1], "image", "answers", list(ANSWERS))


def main(argv: list[str] | None = None) -> None:
    data_arguments, model_arguments, run_arguments, training = parse_arguments(
        sys.argv[1:] if argv is None else argv, __doc__
    )
    types = data_arguments.question_types or list(QUESTION_TYPES)
    if unknown := sorted(set(types) - set(QUESTION_TYPES)):
        raise InputError(f"There is no question type {unknown[0]!r}. Known types: {', '.join(QUESTION_TYPES)}.")
    if data_arguments.horizontal_flip or data_arguments.crop_padding:
        raise InputError("Flipped or cropped images have other answers: set no `horizontal_flip` or `crop_padding`.")
    should_push = training.push_to_hub
    arguments = collect_arguments(data_arguments, model_arguments, training=training)
    data = load_questions(data_arguments)
    model, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed, QUESTION_SIZE)
    # Always in memory: each image is asked about many times.
    train_data, eval_data = (
        Questions(part, ImagePixels(part, "image", processor, cache=True), types)
        for part in (data.train, data.evaluation)
    )
    trainer, measured = train(
        model,
        processor,
        (train_data, eval_data),
        arguments,
        training,
        make_metrics(eval_data),
        run_arguments.restart,
    )
    measured["question_only_by_group"] = score_groups(answer_from_questions_alone(train_data, eval_data), eval_data)
    measured["num_train_questions"], measured["num_eval_questions"] = len(train_data), len(eval_data)
    if trainer.is_world_process_zero():
        command = describe_command("examples.relational_reasoning")
        report_run(model, processor, data, arguments, training, measured, command)
        print("\nquestions: accuracy (from the question alone)")
        for name, accuracy in measured["accuracy_by_group"].items():
            print(f"  {name}: {100 * accuracy:.1f} % ({100 * measured['question_only_by_group'][name]:.1f} %)")
        if should_push:
            push_folder(training)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
