"""Labels by the names of their classes, the same over all splits, and a held-out part with a share of every class."""

from typing import Any

import datasets
import numpy as np

from examples.data.files import normalize_name, shorten
from examples.errors import InputError
from examples.sharing import show


MAX_ROWS_NAMED = 5


def name_labels(data: datasets.Dataset, label_column: str, split: str = "training") -> list[str | None]:
    """
    The class of each row by name; `None` where there is no label: a missing value, an empty string, or -1.

    Raises:
        InputError: if a row has a label that is no name of a class, as a fraction or a date.
    """
    feature, values = data.features[label_column], data[label_column][:]
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
        return [
            normalize_name(names[value]) if value is not None and 0 <= value < len(names) else None for value in values
        ]
    wrong = [row for row, value in enumerate(values) if value is not None and not isinstance(value, (int, str))]
    if wrong:
        # What is not even a number is what is missing.
        wrong = [row for row in wrong if values[row] != values[row]] or wrong
        label, kind = values[wrong[0]], type(values[wrong[0]]).__name__
        hint = " (beside a missing value integers become floats)" if kind == "float" else ""
        raise InputError(
            f"{describe_rows(wrong)} of the {split} split {'has' if len(wrong) == 1 else 'have'} labels such as "
            f"{show(str(label))} in column {label_column!r}, of type {kind}, but classes must be integers or "
            f"strings{hint}. Convert them, or say with `--label_column` which column to use. The data set has: "
            f"{', '.join(data.column_names)}."
        )
    # Two classes may be called -1 and 1; beside others, -1 is how data sets mark rows without a label.
    missing: set[Any] = {None, ""} if set(values) == {-1, 1} else {None, "", -1}
    return [None if value in missing else normalize_name(str(value)) for value in values]


def read_label_names(train: datasets.Dataset, label_column: str) -> list[str]:
    """Return the names of the classes: those that the training split gives, else its sorted values."""
    feature = train.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return [normalize_name(name) for name in feature.names]
    names = set(name_labels(train, label_column)) - {None}
    is_integer = any(isinstance(value, int) and not isinstance(value, bool) for value in train[label_column][:])
    return sorted(map(str, names), key=int if is_integer else str)


def describe_rows(rows: list[int]) -> str:
    """`Row 3`, or `Rows 3, 4, 5`, the first few of them."""
    more = f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
    return f"Row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:MAX_ROWS_NAMED]))}{more}"


def encode_labels(data: datasets.Dataset, label_column: str, label_names: list[str], split: str) -> datasets.Dataset:
    """
    Turn labels into indices of `label_names`, by name.

    Raises:
        InputError: if a row has no label or one that training does not know; the message names the rows.
    """
    index_of = {name: index for index, name in enumerate(label_names)}
    names = name_labels(data, label_column, split)
    labels = [None if name is None else index_of.get(name) for name in names]
    bad_rows = [row for row, label in enumerate(labels) if label is None]
    if bad_rows:
        name = names[bad_rows[0]]
        same = [row for row in bad_rows if names[row] == name]
        is_named = name is not None and isinstance(data.features[label_column], datasets.ClassLabel)
        label = name if is_named else data[same[0]][label_column]
        problem = "which says that there is none" if name is None else "which training does not have"
        more = f" (and {len(bad_rows) - len(same)} more with other labels)" if len(bad_rows) > len(same) else ""
        classes = f"{len(label_names)} classes, 0 to {len(label_names) - 1}" if label_names else "no classes"
        listed = f" ({', '.join(map(show, label_names[:10]))}{', ...' if len(label_names) > 10 else ''})"
        raise InputError(
            f"{describe_rows(same)} of the {split} split {'has' if len(same) == 1 else 'have'} the label {label!r} in "
            f"column {label_column!r}, {problem}{more}: there are {classes}{listed if label_names else ''}. Label or "
            "remove these rows, or choose another split."
        )
    return data.remove_columns(label_column).add_column(label_column, labels)


def has_known_label(data: datasets.Dataset, label_column: str, label_names: list[str], split: str) -> bool:
    """Whether any row has one of these labels."""
    return not set(label_names).isdisjoint(name_labels(data, label_column, split))


def warn_of_lost_classes(given: list[int], kept: list[int], label_names: list[str]) -> None:
    """Say which classes have no training image any more, once those that cannot be read are left out."""
    if lost := sorted(set(given) - set(kept)):
        listed = shorten([label_names[label] for label in lost], 10)
        print(f"Warning: no training image of these classes can be read: {listed}.")


def warn_of_single_images(labels: list[int], label_names: list[str]) -> None:
    """Say which classes training shows in one image only."""
    single = [name for label, name in enumerate(label_names) if labels.count(label) == 1]
    if single:
        print(f"Warning: classes with one training image: {shorten(single, 10)}.")


def warn_of_unseen_classes(train_labels: list[int], eval_labels: list[int], label_names: list[str]) -> None:
    """Say which classes are evaluated although no training image shows them."""
    unseen = sorted(set(eval_labels) - set(train_labels))
    if unseen:
        listed = shorten([label_names[label] for label in unseen], 10)
        print(f"Warning: no training image shows these classes, which are evaluated: {listed}.")


def hold_out(
    train: datasets.Dataset, label_column: str, label_names: list[str], fraction: float
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """
    Hold out a part of the training split, with a share of every class, the same for every seed.

    Every class has an image in each part; a class with a single one keeps it in training.

    Raises:
        InputError: if the fraction is not between 0 and 1, or nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise InputError(f"`--eval_fraction` must be between 0 and 1, but got {fraction}.")
    labels = np.asarray(train[label_column][:])
    classes, sizes = np.unique(labels, return_counts=True)
    single = [label_names[label] for label in classes[sizes == 1]]
    if single:
        print(f"Warning: classes with one image are not evaluated: {shorten(single, 10)}.")
    shares = sizes * fraction
    counts = np.minimum(np.maximum(np.floor(shares), 1), sizes - 1).astype(int)
    # What the shares lose by rounding down goes to the classes that lost most.
    for index in np.argsort(counts - shares, kind="stable"):
        if counts.sum() < round(sizes.sum() * fraction) and counts[index] < sizes[index] - 1:
            counts[index] += 1
    if counts.sum() == 0:
        raise InputError(
            "No part of the training split can be held out: no class has two images. `--eval_split train` takes all."
        )
    random = np.random.default_rng(0)
    held_out = np.concatenate(
        [random.permutation(np.flatnonzero(labels == label))[:count] for label, count in zip(classes, counts)]
    )
    print(f"Held out to evaluate on: {len(held_out)} of {len(labels)} training images (`--eval_fraction`).")
    is_held_out = np.isin(np.arange(len(labels)), held_out)
    return train.select(np.flatnonzero(~is_held_out)), train.select(np.flatnonzero(is_held_out))
