"""Data sets by name: loading, checks, and the choice of splits and columns."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from examples.data.arguments import DataArguments
from examples.data.catalog import BENCHMARKS, IMAGE_CLASSIFICATION, find_benchmark
from examples.data.generated import load_generated
from examples.errors import InputError


@dataclass
class ImageData:
    """A data set to train and evaluate on, with the names of its columns and classes."""

    name: str
    train: datasets.Dataset
    evaluation: datasets.Dataset
    image_column: str
    label_column: str
    label_names: list[str]


def load_digits() -> datasets.DatasetDict:
    """Build scikit-learn's 1,797 handwritten digits (8 x 8 pixels), one fifth held out, the same for every seed."""
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits = load_sklearn_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    data = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in images], "label": digits.target.tolist()}, features=features
    )
    return data.train_test_split(test_size=0.2, seed=0, stratify_by_column="label")


EMBEDDED = {"digits": load_digits}
IMAGE_EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load_local_folder(folder: Path) -> datasets.DatasetDict:
    """Load a folder of images by class, or one of parquet files whose names begin with the name of their split."""
    parquet_files = sorted(folder.glob("*.parquet"))
    if parquet_files:
        splits: dict[str, list[str]] = {}
        for file in parquet_files:
            splits.setdefault(file.stem.split("-")[0].split(".")[0], []).append(str(file))
        return datasets.load_dataset("parquet", data_files=splits)
    if not any(file.suffix.lower() in IMAGE_EXTENSIONS for file in folder.rglob("*")):
        raise InputError(
            f"The folder {str(folder)!r} holds no images and no parquet files. Expected FOLDER/train/CLASS/image.png "
            "(and FOLDER/test/...), FOLDER/CLASS/image.png, or FOLDER/train.parquet."
        )
    return datasets.load_dataset("imagefolder", data_dir=str(folder))


def load_splits(arguments: DataArguments) -> datasets.DatasetDict:
    """Load all splits of the data set that the arguments name."""
    name = arguments.dataset_name
    known = ", ".join([*sorted(EMBEDDED), *BENCHMARKS])
    if name is None:
        raise InputError(f"`--dataset_name` is missing: a Hub id, a local folder, or one of: {known}.")
    benchmark = find_benchmark(name)
    builder = None if benchmark is None else benchmark.builder
    if builder is None and (arguments.generator_train_size or arguments.generator_test_size):
        raise InputError(
            f"{name!r} is not generated: use `--max_train_samples` and `--max_eval_samples` instead of "
            "`--generator_train_size` and `--generator_test_size`."
        )
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if builder is not None:
        return load_generated(  # type: ignore[return-value]  # it streams only when asked to
            builder,
            arguments.dataset_config_name,
            arguments.generator_seed,
            arguments.generator_train_size,
            arguments.generator_test_size,
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return load_local_folder(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(
            f"There is no folder {name!r}. `--dataset_name` takes a folder, a Hub id, or one of: {known}."
        )
    hub_id = name if benchmark is None else str(benchmark.hub_id)
    if "/" not in hub_id:
        raise InputError(
            f"There is no benchmark {name!r}. Known: {known}. Otherwise `--dataset_name` takes a Hub id (user/name) "
            "or a local folder."
        )
    try:
        return datasets.load_dataset(hub_id, arguments.dataset_config_name)
    except Exception as error:
        # Which exception tells an unknown name, a missing login or a missing network changes between versions.
        raise InputError(
            f"The data set {hub_id!r} could not be loaded from the Hub ({type(error).__name__}: {error}). "
            f"Without a network pass a local folder with its files, or one of digits, triangle, sort_of_clevr, as "
            "`--dataset_name`."
        ) from error


def choose_column(given: str | None, candidates: tuple[str, ...], columns: list[str], flag: str) -> str:
    if given is not None:
        if given not in columns:
            raise InputError(f"There is no column {given!r} (`{flag}`). The data set has: {', '.join(columns)}.")
        return given
    found = [column for column in candidates if column in columns]
    if len(found) != 1:
        raise InputError(f"Say with `{flag}` which column to use. The data set has: {', '.join(columns)}.")
    return found[0]


def choose_splits(splits: datasets.DatasetDict, arguments: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    for flag, name in (("--train_split", arguments.train_split), ("--eval_split", arguments.eval_split)):
        if name is not None and name not in splits:
            raise InputError(f"There is no split {name!r} (`{flag}`). The data set has: {', '.join(splits)}.")
    train = splits[arguments.train_split]
    for name in (arguments.eval_split, "test", "validation"):
        if name is not None and name in splits and name != arguments.train_split:
            return train, splits[name]
    if arguments.eval_split is not None:
        return train, splits[arguments.eval_split]
    if not 0 < arguments.eval_fraction < 1:
        raise InputError(f"`--eval_fraction` must be between 0 and 1, but got {arguments.eval_fraction}.")
    parts = train.train_test_split(test_size=arguments.eval_fraction, seed=0)
    return parts["train"], parts["test"]


def read_label_names(train: datasets.Dataset, label_column: str) -> list[str]:
    """Return the names of the classes: those that the data set gives, else its sorted values."""
    feature = train.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    values = sorted(set(train[label_column]))
    if not all(isinstance(value, (int, str)) for value in values):
        raise InputError(
            f"The label column {label_column!r} holds {type(values[0]).__name__} values, but classes must be integers "
            f"or strings. The data set has: {', '.join(train.column_names)}."
        )
    return [str(value) for value in values]


def encode_labels(data: datasets.Dataset, label_column: str, label_names: list[str], split: str) -> datasets.Dataset:
    """Turn labels into indices of `label_names` and check every one of them."""
    labels = data[label_column][:]
    if not isinstance(data.features[label_column], datasets.ClassLabel):
        index_of = {name: index for index, name in enumerate(label_names)}
        labels = [index_of.get(str(label), label) for label in labels]
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < len(label_names):
            raise InputError(
                f"Row {row} of the {split} split has the label {label!r} in column {label_column!r}, but there are "
                f"{len(label_names)} classes: 0 to {len(label_names) - 1} ({', '.join(label_names[:10])}"
                f"{', ...' if len(label_names) > 10 else ''})."
            )
    return data.remove_columns(label_column).add_column(label_column, labels)


def load_image_data(arguments: DataArguments) -> ImageData:
    """
    Load, check and cut to size the data set that the arguments name.

    Raises:
        InputError: if it cannot be found or does not fit; the message says what there is.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.task != IMAGE_CLASSIFICATION:
        raise InputError(f"{arguments.dataset_name!r} has questions: train on it with `examples.{benchmark.task}`.")
    train, evaluation = choose_splits(load_splits(arguments), arguments)
    columns = train.column_names
    image_columns = ("image", "img") if benchmark is None else (benchmark.image_column,)
    label_columns = ("label", "labels") if benchmark is None else (benchmark.label_column,)
    image_column = choose_column(arguments.image_column, image_columns, columns, "--image_column")
    label_column = choose_column(arguments.label_column, label_columns, columns, "--label_column")
    if not isinstance(train.features[image_column], datasets.Image):
        raise InputError(
            f"The column {image_column!r} holds no images. The data set has: "
            + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in train.features.items())
            + "."
        )
    label_names = read_label_names(train, label_column)
    parts = []
    for split, data, limit in (
        ("training", train, arguments.max_train_samples),
        ("evaluation", evaluation, arguments.max_eval_samples),
    ):
        data = data.select_columns([image_column, label_column])
        if limit is not None:
            # Shuffled, because folders of images come sorted by class.
            data = data.shuffle(seed=0).select(range(min(limit, len(data))))
        if len(data) == 0:
            raise InputError(f"The {split} split of {arguments.dataset_name!r} is empty.")
        data = encode_labels(data, label_column, label_names, split)
        # Decoded by `decode_image`, which can name the file that it cannot read.
        parts.append(data.cast_column(image_column, datasets.Image(decode=False)))
    return ImageData(str(arguments.dataset_name), parts[0], parts[1], image_column, label_column, label_names)
