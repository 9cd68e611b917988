"""Questions about images, as Sort-of-CLEVR has them: loading, and one sample for each question."""

import datasets
import numpy as np
import torch

from examples.data.arguments import DataArguments
from examples.data.catalog import RELATIONAL_REASONING, find_benchmark
from examples.data.images import ImagePixelsDataset
from examples.data.loading import ImageData, load_splits
from examples.data.sort_of_clevr import ANSWERS, NUM_OBJECTS, QUESTION_SIZE, QUESTION_TYPES, SUBTYPES
from examples.errors import InputError


RELATIONAL = "relational"


class QuestionsDataset(torch.utils.data.Dataset):
    """
    One sample for each question: `pixel_values` (3, height, width), `question` (18,) and `labels` ().

    `bits` (num_questions, 18) and `answers` (num_questions,) hold all of them, in the order of the samples.
    """

    def __init__(self, data: datasets.Dataset, pixels: ImagePixelsDataset, types: list[str]):
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


def load_questions(arguments: DataArguments) -> ImageData:
    """
    Load the splits: `sort_of_clevr`, or a Hub id or folder with its columns.

    Raises:
        InputError: if the data set has no questions.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.task != RELATIONAL_REASONING:
        raise InputError(f"{arguments.dataset_name!r} has no questions: train on it with `examples.{benchmark.task}`.")
    if arguments.check_images or arguments.skip_bad_images:
        raise InputError("`--check_images` and `--skip_bad_images` are for image classification: leave them out.")
    splits = load_splits(arguments, benchmark)
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
