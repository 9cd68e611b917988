"""Data sets by name: loading, checks, and the choice of columns."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from examples.data.arguments import QUESTION_AUGMENTATIONS, DataArguments
from examples.data.catalog import BENCHMARKS, IMAGE_CLASSIFICATION, Benchmark, find_benchmark
from examples.data.decoding import check_images, leave_out_bad_images
from examples.data.digits import load_digits
from examples.data.folders import LAYOUTS, holds_data, load_local_folder
from examples.data.generated import load_generated
from examples.data.hub import load_hub_splits
from examples.data.labels import (
    encode_labels,
    hold_out,
    read_label_names,
    warn_of_lost_classes,
    warn_of_single_images,
    warn_of_unseen_classes,
)
from examples.data.shard_sources import load_evaluation, open_local_shards
from examples.data.shards import Shards
from examples.data.splits import choose_eval_split, choose_only_split, find_split, takes_training_part
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
    # Of a stream: the files of the training images, of which `train` has the labels alone.
    shards: Shards | None = None


# The rows before a part is held out or drawn, so that an image that cannot be read is found again.
ROW_COLUMN = "row"
EMBEDDED = {"digits": load_digits}


def refuse_shadowed_folder(name: str) -> None:
    """Refuse the name of a known data set that a folder with data in the working directory has as well."""
    if not Path(name).is_dir():
        return
    if holds_data(Path(name)):
        raise InputError(
            f"{name!r} is both a known data set and a folder here. Pass `--dataset_name ./{name}` for the folder; for "
            "the data set, rename the folder or work elsewhere."
        )
    print(f"The folder {name!r} here holds no images and no parquet files: the known data set {name!r} is loaded.")


def load_splits(arguments: DataArguments, benchmark: Benchmark | None, trains: bool = True) -> datasets.DatasetDict:
    """
    Load all splits of the data set that the arguments name; for a stream, find the `Shards` of each instead.

    `benchmark` is what `find_benchmark` says of the data set. Unless `trains`, no split to train on is generated.
    """
    name = arguments.dataset_name
    known = ", ".join([*sorted(EMBEDDED), *BENCHMARKS])
    if not name:
        raise InputError(f"`--dataset_name` is missing: a Hub id, a local folder, or one of: {known}.")
    if benchmark is not None or name in EMBEDDED:
        refuse_shadowed_folder(name)
    builder = None if benchmark is None else benchmark.builder
    if builder is None and (arguments.generator_train_size or arguments.generator_test_size):
        raise InputError(
            f"{name!r} is not generated: use `--max_train_samples` and `--max_eval_samples` instead of "
            "`--generator_train_size` and `--generator_test_size`."
        )
    if builder is None and arguments.generator_seed:
        raise InputError(f"`--generator_seed` has no effect: {name!r} is not generated. Leave it out.")
    if arguments.streaming and (builder is not None or name in EMBEDDED):
        raise InputError(f"`--streaming` has no effect: {name!r} is made here, not read from files. Leave it out.")
    if name in EMBEDDED:
        if arguments.dataset_config_name is not None:
            raise InputError(f"`--dataset_config_name` has no effect: {name!r} has no variants. Leave it out.")
        return EMBEDDED[name]()
    if builder is not None:
        return load_generated(  # type: ignore[return-value]  # it streams only when asked to
            builder,
            arguments.dataset_config_name,
            arguments.generator_seed,
            arguments.generator_train_size,
            arguments.generator_test_size,
            only_test=not trains
            and not takes_training_part(arguments)
            and (arguments.eval_split or "test").lower() == "test",
        )
    path = Path(name).expanduser()
    if path.is_dir() and arguments.streaming:
        return open_local_shards(path, arguments.dataset_config_name, arguments.allow_outside_files)
    if path.is_dir():
        return load_local_folder(
            path, arguments.dataset_config_name, arguments.allow_outside_files, min_classes=2 if trains else 1
        )
    if path.is_file():
        raise InputError(f"{name!r} is a file: `--dataset_name` takes the folder that holds it. Expected {LAYOUTS}.")
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
    return load_hub_splits(hub_id, arguments.dataset_config_name, arguments.allow_outside_files, arguments.streaming)


def choose_column(given: str | None, candidates: tuple[str, ...], columns: list[str], flag: str) -> str:
    if given is not None:
        if given not in columns:
            raise InputError(f"There is no column {given!r} (`{flag}`). The data set has: {', '.join(columns)}.")
        return given
    found = [column for column in candidates if column in columns]
    if len(found) != 1:
        raise InputError(f"Say with `{flag}` which column to use. The data set has: {', '.join(columns)}.")
    return found[0]


def choose_image_column(data: datasets.Dataset, arguments: DataArguments, benchmark: Benchmark | None) -> str:
    candidates: tuple[str, ...] = ("image", "img") if benchmark is None else (benchmark.image_column,)
    if isinstance(data, Shards):
        candidates += data.image_fields
    return choose_column(arguments.image_column, candidates, data.column_names, "--image_column")


def choose_columns(data: datasets.Dataset, arguments: DataArguments, benchmark: Benchmark | None) -> tuple[str, str]:
    """The columns of the image and of the class."""
    label_columns: tuple[str, ...] = ("label", "labels") if benchmark is None else (benchmark.label_column,)
    if isinstance(data, Shards):
        label_columns += data.label_fields
    label_column = choose_column(arguments.label_column, label_columns, data.column_names, "--label_column")
    return choose_image_column(data, arguments, benchmark), label_column


def check_columns(data: datasets.Dataset, image_column: str, label_column: str, split: str) -> None:
    """Refuse a split without these columns, or without images in the one of the images."""
    missing = {image_column, label_column} - set(data.column_names)
    if missing:
        raise InputError(
            f"The {split} split lacks {', '.join(sorted(missing))}; it has {', '.join(data.column_names)}. "
            "Choose another split, or name its columns as in the training split."
        )
    if not isinstance(data.features[image_column], datasets.Image):
        raise InputError(
            f"The column {image_column!r} of the {split} split holds no images. It has: "
            + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in data.features.items())
            + "."
        )


def refuse_empty(data: datasets.Dataset, split: str, name: str | None) -> None:
    if len(data) == 0:
        raise InputError(f"The {split} split of {name!r} is empty.")


def cut_to_size(data: datasets.Dataset, limit: int | None, split: str, name: str | None) -> datasets.Dataset:
    """Keep that many rows."""
    refuse_empty(data, split, name)
    if limit is not None:
        # Shuffled, because folders of images come sorted by class.
        data = data.shuffle(seed=0).select(range(min(limit, len(data))))
    return data


def refuse_unused_arguments(arguments: DataArguments, has_eval_split: bool) -> None:
    """Raise an `InputError` for an argument that changes nothing about images by class."""
    for name in ("question_types", "group_questions", *QUESTION_AUGMENTATIONS):
        if getattr(arguments, name):
            raise InputError(
                f"`--{name}` has no effect on images without questions: leave it out, or train with "
                "`examples.relational_reasoning`."
            )
    if has_eval_split and arguments.eval_fraction != DataArguments.eval_fraction:
        raise InputError(
            f"`--eval_fraction` has no effect: {arguments.dataset_name!r} has a split to evaluate on. Leave it out, "
            "or pass `--hold_out True`."
        )


def load_image_data(arguments: DataArguments, trains: bool = True, is_unseen: bool = False) -> ImageData:
    """
    Load, check and cut to size the data set that the arguments name; unless `trains`, no split to train on is needed.

    Of data that no training has seen the only split is evaluated on as a whole, unless a part is asked for.

    Raises:
        InputError: if it cannot be found or does not fit; the message says what there is.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.task != IMAGE_CLASSIFICATION:
        raise InputError(f"{arguments.dataset_name!r} has questions: train on it with `examples.{benchmark.task}`.")
    splits = load_splits(arguments, benchmark, trains)
    if not trains:
        arguments = choose_only_split(splits, arguments, is_unseen)
    train = splits[find_split(splits, arguments.train_split, "--train_split")]
    image_column, label_column = choose_columns(train, arguments, benchmark)
    label_names = read_label_names(train, label_column)
    refuse_empty(train, "training", arguments.dataset_name)
    eval_split = choose_eval_split(splits, arguments, label_column, label_names)
    refuse_unused_arguments(arguments, has_eval_split=eval_split is not None)
    parts = {"training": train}
    if eval_split is not None:
        parts["evaluation"] = splits[eval_split]
        if parts["evaluation"] is train and not trains:
            del parts["training"]
        elif parts["evaluation"] is train:
            print(f"Warning: the {eval_split} split is both trained and evaluated on.")
    shards = train if isinstance(train, Shards) else None
    if shards is not None:
        parts["evaluation"] = load_evaluation(shards, splits, eval_split)
    for split, data in parts.items():
        check_columns(data, image_column, label_column, split)
        data = data.select_columns([image_column, label_column])
        data = encode_labels(data, label_column, label_names, split)
        parts[split] = data.add_column(ROW_COLUMN, np.arange(len(data)))
    if trains and len(label_names) < 2:
        raise InputError(f"The data set {arguments.dataset_name!r} has one class ({label_names[0]}): two are needed.")
    if arguments.check_images:
        check_images(parts, image_column)
    if arguments.skip_bad_images:
        given = [] if "training" not in parts else parts["training"][label_column][:]
        parts = {split: leave_out_bad_images(data, image_column, split) for split, data in parts.items()}
        if "training" in parts:
            refuse_empty(parts["training"], "training", arguments.dataset_name)
            warn_of_lost_classes(given, parts["training"][label_column][:], label_names)
    if "evaluation" not in parts:
        parts["training"], parts["evaluation"] = hold_out(
            parts["training"], label_column, label_names, arguments.eval_fraction
        )
    elif "training" in parts:
        warn_of_single_images(parts["training"][label_column][:], label_names)
    limits = {"training": arguments.max_train_samples, "evaluation": arguments.max_eval_samples}
    for split, data in parts.items():
        data = cut_to_size(data, limits[split], split, arguments.dataset_name)
        # Decoded by `decode_image`, which can name the file that it cannot read.
        parts[split] = data.cast_column(image_column, datasets.Image(decode=False))
    evaluation = parts["evaluation"]
    train = parts.get("training", evaluation)
    warn_of_unseen_classes(train[label_column][:], evaluation[label_column][:], label_names)
    return ImageData(str(arguments.dataset_name), train, evaluation, image_column, label_column, label_names, shards)
