"""Questions about images, as Sort-of-CLEVR has them: loading, and one sample for each question."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from transformers import ViTImageProcessorPil

from examples.data.arguments import DataArguments
from examples.data.catalog import RELATIONAL_REASONING, find_benchmark
from examples.data.images import ImagePixelsDataset
from examples.data.loading import ImageData, load_splits
from examples.data.question_columns import SUBTYPE_BITS, name_types, read_questions, read_rows
from examples.data.sort_of_clevr import (
    ANSWERS,
    CANVAS_SIZE,
    QUESTION_SIZE,
    QUESTION_TYPES,
    SUBTYPES,
    SortOfClevr,
    answer_encoded,
    augment_scene,
    draw_questions,
    paint,
)
from examples.data.splits import choose_only_split, find_split, list_eval_splits
from examples.errors import InputError


RELATIONAL = "relational"


class QuestionsDataset(torch.utils.data.Dataset):
    """
    One sample for each question: `pixel_values` (3, height, width), `question` (18,) and `labels` ().

    `bits` (num_questions, 18) and `answers` (num_questions,) hold all of them, in the order of the samples.

    Raises:
        InputError: if the columns hold something else, or no question of these types.
    """

    def __init__(self, data: datasets.Dataset, pixels: ImagePixelsDataset, types: list[str]):
        self.pixels = pixels
        self.bits, self.answers, self.image_indices = read_questions(data, types)

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def num_questions(self) -> int:
        """How many questions an epoch asks."""
        return len(self.answers)

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The samples of some indices at once, each entry with a first dimension of their number."""
        return {
            "pixel_values": self.pixels.get_batch(self.image_indices[indices].tolist()),
            "question": torch.from_numpy(self.bits[indices]).float(),
            "labels": torch.from_numpy(self.answers[indices]),
        }


class GroupedQuestionsDataset(QuestionsDataset):
    """
    One sample for each image: `pixel_values` (3, height, width), `question` (Q, 18) and `labels` (Q,).

    With `augmented_variant`, a variant of Sort-of-CLEVR, every access paints the scene anew, flipped, transposed and
    recolored at random, and answers the questions about what it shows: those of the image, or, with
    `redraw_questions`, so many new ones of each type. The stream is one of (seed, epoch, index).

    Raises:
        InputError: if the images have different numbers of questions, or cannot be painted.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        pixels: ImagePixelsDataset,
        types: list[str],
        augmented_variant: str | None = None,
        redraw_questions: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__(data, pixels, types)
        counts = np.bincount(self.image_indices, minlength=len(data))
        if counts.min() != counts.max() or counts[0] == 0:
            raise InputError(
                f"`--group_questions` needs as many questions for each image, but there are {counts.min()} to "
                f"{counts.max()}: leave it out."
            )
        self.bits_by_image = self.bits.reshape(len(data), -1, QUESTION_SIZE)
        self.answers_by_image = self.answers.reshape(len(data), -1)
        self.augmented_variant, self.redraw_questions, self.seed = augmented_variant, redraw_questions, seed
        if augmented_variant is not None:
            self.centres, self.shapes = (np.asarray(data[name][:]) for name in ("centres", "shapes"))

    def __len__(self) -> int:
        return len(self.answers_by_image)

    @property
    def num_questions(self) -> int:
        return super().num_questions if self.redraw_questions is None else len(self) * sum(self.redraw_questions)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        if self.augmented_variant is not None:
            return torch.utils.data.default_collate([self.paint_anew(index) for index in indices])
        return {
            "pixel_values": self.pixels.get_batch(indices),
            "question": torch.from_numpy(self.bits_by_image[indices]).float(),
            "labels": torch.from_numpy(self.answers_by_image[indices]),
        }

    def paint_anew(self, index: int) -> dict[str, torch.Tensor]:
        """One sample, its scene augmented."""
        random = np.random.default_rng([self.seed, int(self.pixels.epoch), index])
        scene = (self.centres[index], self.shapes[index], self.bits_by_image[index])
        centres, shapes, question = augment_scene(*scene, random)
        if self.redraw_questions is not None:
            question = draw_questions(random, self.redraw_questions)
        answers = answer_encoded(centres, shapes, question, str(self.augmented_variant))
        return {
            "pixel_values": self.pixels.normalize(torch.from_numpy(paint(centres, shapes)).permute(2, 0, 1)),
            "question": torch.from_numpy(question).float(),
            "labels": torch.from_numpy(answers),
        }


def make_question_datasets(
    data: ImageData, arguments: DataArguments, processor: ViTImageProcessorPil, types: list[str], seed: int
) -> tuple[QuestionsDataset, QuestionsDataset]:
    """
    Wrap the training split, with augmentation, and the evaluation split, without.

    Raises:
        InputError: for an augmentation of questions that cannot work.
    """
    # Always in memory: each image is asked about many times.
    train_pixels, eval_pixels = (
        ImagePixelsDataset(part, data.image_column, processor, cache=True) for part in (data.train, data.evaluation)
    )
    variant = (arguments.dataset_config_name or SortOfClevr.variants[0]) if arguments.augment_questions else None
    if arguments.redraw_questions is not None and variant is None:
        raise InputError("`--redraw_questions` needs `--augment_questions`, which answers them.")
    if variant is not None:
        if not arguments.group_questions or arguments.dataset_name != "sort_of_clevr":
            raise InputError("`--augment_questions` needs `--group_questions` and `--dataset_name sort_of_clevr`.")
        size = tuple(processor.size[name] for name in ("height", "width"))
        if size != (CANVAS_SIZE, CANVAS_SIZE):
            raise InputError(
                f"`--augment_questions` paints images of {CANVAS_SIZE} x {CANVAS_SIZE} pixels, but the model takes "
                f"{size[0]} x {size[1]}: set `image_size` to {CANVAS_SIZE}."
            )
    if not arguments.group_questions:
        return QuestionsDataset(data.train, train_pixels, types), QuestionsDataset(data.evaluation, eval_pixels, types)
    return (
        GroupedQuestionsDataset(data.train, train_pixels, types, variant, arguments.redraw_questions, seed),
        GroupedQuestionsDataset(data.evaluation, eval_pixels, types),
    )


def group_questions(bits: np.ndarray) -> dict[str, np.ndarray]:
    """
    Masks (num_questions,) of the groups to report: each type, all relational ones, and each subtype.

    A group without questions is left out.
    """
    types, subtypes = name_types(bits), bits[:, SUBTYPE_BITS].argmax(axis=1)
    groups = {name: types == name for name in QUESTION_TYPES}
    groups[RELATIONAL] = types != "non-relational"
    for name, subtype_names in SUBTYPES.items():
        for index, subtype in enumerate(subtype_names):
            groups[f"{name}: {subtype}"] = (types == name) & (subtypes == index)
    return {name: mask for name, mask in groups.items() if mask.any()}


def hold_out_images(train: datasets.Dataset, fraction: float) -> list[datasets.Dataset]:
    """
    What is left to train on, and a part of the images with all their questions, the same for every seed.

    Raises:
        InputError: if either would be empty.
    """
    num_held_out = round(fraction * len(train))
    if not 0 < num_held_out < len(train):
        raise InputError(f"No {fraction:g} of {len(train)} images can be held out (`--eval_fraction`).")
    print(f"Held out to evaluate on: {num_held_out} of {len(train)} training images (`--eval_fraction`).")
    order = np.random.default_rng(0).permutation(len(train))
    return [train.select(np.sort(part)) for part in (order[num_held_out:], order[:num_held_out])]


def load_questions(arguments: DataArguments, trains: bool = True, is_unseen: bool = False) -> ImageData:
    """
    Load the splits: `sort_of_clevr`, or a Hub id or folder with its columns.

    Unless `trains`, no split to train on is needed, and of data that `is_unseen` the only one is evaluated on.

    Raises:
        InputError: if the data set has no questions.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.task != RELATIONAL_REASONING:
        raise InputError(f"{arguments.dataset_name!r} has no questions: train on it with `examples.{benchmark.task}`.")
    if arguments.check_images or arguments.skip_bad_images:
        raise InputError("`--check_images` and `--skip_bad_images` are for image classification: leave them out.")
    if arguments.streaming:
        raise InputError("`--streaming` is for image classification: leave it out, questions are loaded first.")
    if arguments.eval_fraction != DataArguments.eval_fraction and not arguments.hold_out:
        raise InputError(
            "`--eval_fraction` has no effect: questions are evaluated on a split of their own. Leave it out, or pass "
            "`--hold_out True`."
        )
    splits = load_splits(arguments, benchmark, trains)
    if not trains:
        arguments = choose_only_split(splits, arguments, is_unseen)
    train_split = find_split(splits, arguments.train_split, "--train_split")
    eval_split = train_split if arguments.hold_out else arguments.eval_split
    if eval_split is None:
        candidates = list_eval_splits(splits, train_split)
        while len(candidates) > 1 and "answers" not in splits[candidates[0]].column_names:
            print(f"The {candidates.pop(0)} split has no answers: it is left out.")
        eval_split = next(iter(candidates), None)
    if eval_split is None:
        raise InputError(
            f"There is no split to evaluate on. The data set has: {', '.join(splits)}. Name one as `--eval_split`, or "
            "pass `--hold_out True`."
        )
    parts = []
    eval_split = find_split(splits, eval_split, "--eval_split")
    for split in (train_split, eval_split):
        data = splits[split]
        missing = {"image", "questions", "answers"} - set(data.column_names)
        if missing:
            raise InputError(
                f"The data set lacks the columns {', '.join(sorted(missing))}; "
                f"it has: {', '.join(data.column_names)}. "
                "Pass `--dataset_name sort_of_clevr`, or a data set with its columns."
            )
        parts.append(data.cast_column("image", datasets.Image(decode=False)))
    if benchmark is None:
        # Before some are selected, so that a row is named as its owner counts.
        for split in dict.fromkeys((train_split, eval_split) if trains else (eval_split,)):
            read_rows(splits[split], f"the {split} split")
    if arguments.hold_out:
        parts = hold_out_images(parts[0], arguments.eval_fraction)
    train, evaluation = (
        data.select(range(min(limit or len(data), len(data))))
        for data, limit in zip(parts, (arguments.max_train_samples, arguments.max_eval_samples))
    )
    return ImageData(str(arguments.dataset_name), train, evaluation, "image", "answers", list(ANSWERS))
