"""Which split is trained and which evaluated on."""

from dataclasses import replace

import datasets

from examples.data.arguments import DataArguments
from examples.data.files import SPLIT_NAMES
from examples.data.labels import has_known_label
from examples.errors import InputError
from examples.sharing import show


def find_split(splits: datasets.DatasetDict, name: str, flag: str) -> str:
    """The split of this name in any capitalisation; `val` and `valid` are other names of `validation`."""
    lower = name.lower()
    other_name = "validation" if SPLIT_NAMES.get(lower) == "validation" else lower
    found = name if name in splits else other_name
    if found not in splits:
        raise InputError(f"There is no split {name!r} (`{flag}`). The data set has: {', '.join(splits)}.")
    return found


def takes_training_part(arguments: DataArguments) -> bool:
    """Whether a split to train on has a part in the evaluation."""
    return arguments.hold_out or arguments.train_split != DataArguments.train_split


def choose_only_split(splits: datasets.DatasetDict, arguments: DataArguments, is_unseen: bool) -> DataArguments:
    """Where nothing is trained, one split may be evaluated on and name the classes too, see `load_image_data`."""
    is_part = (
        arguments.hold_out
        or arguments.eval_split is not None
        or arguments.eval_fraction != DataArguments.eval_fraction
    )
    if is_unseen and not is_part and [name.lower() for name in splits] == [arguments.train_split.lower()]:
        print(
            f"All of {show(arguments.dataset_name)} is evaluated: the checkpoint's run was of other data. If it saw "
            "these by another name, `--hold_out True` takes a part."
        )
        return replace(arguments, eval_split=arguments.train_split)
    if takes_training_part(arguments) or arguments.train_split in splits:
        return arguments
    name = next((name for name in ("test", "validation") if name in splits), None)
    if arguments.eval_split is not None:
        name = find_split(splits, arguments.eval_split, "--eval_split")
    return arguments if name is None else replace(arguments, train_split=name, eval_split=name)


def list_eval_splits(splits: datasets.DatasetDict, train_split: str) -> list[str]:
    """The splits beside the one to train on that are there to evaluate on, the likeliest first."""
    return [name for name in ("test", "validation", "valid", "val") if name in splits and name != train_split]


def choose_eval_split(
    splits: datasets.DatasetDict, arguments: DataArguments, label_column: str, label_names: list[str]
) -> str | None:
    """The split to evaluate on; `None` for a held-out part. A test split that has no labels gives way to another."""
    if arguments.hold_out:
        return None
    if arguments.eval_split is not None:
        return find_split(splits, arguments.eval_split, "--eval_split")
    train_split = find_split(splits, arguments.train_split, "--train_split")
    candidates = list_eval_splits(splits, train_split)
    for name in candidates[:-1]:
        data = splits[name]
        if label_column in data.column_names and has_known_label(data, label_column, label_names, name):
            return name
        print(f"The {name} split has no label that training knows: it is left out.")
    return candidates[-1] if candidates else None
