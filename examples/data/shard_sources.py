"""Where shards are found: parquet files and WebDataset tars in a folder, in splits."""

import glob
from pathlib import Path

import datasets

from examples.data.files import group_by_split, list_files
from examples.data.parquet_files import (
    choose_configuration,
    describe,
    name_split,
    read_common_features,
    refuse_missing_shards,
)
from examples.data.shards import READING_ERRORS, Shards
from examples.errors import InputError
from examples.sharing import show


LAYOUTS = "FOLDER/train-00000.parquet, ... or FOLDER/train-00000.tar, ... (WebDataset), and the same for `test`"


def read_tar_features(file: str, split: str) -> datasets.Features:
    """The fields of the samples of a WebDataset, as one of its tars has them."""
    data_files = {split: [glob.escape(file)]}
    try:
        stream = datasets.load_dataset("webdataset", data_files=data_files, split=split, streaming=True)
    except (*READING_ERRORS, IndexError) as error:
        # An empty archive has no first sample.
        reason = "it holds no samples" if isinstance(error, IndexError) else describe(error.__cause__ or error)
        raise InputError(f"The tar {show(file)!r} cannot be read ({reason}).") from error
    return stream.features


def open_local_shards(
    folder: Path, config_name: str | None = None, allow_outside_files: bool = False
) -> dict[str, Shards]:
    """
    Find the shards in a folder, of which parquet files come first.

    Raises:
        InputError: if there are none, if some are missing, or if it cannot be told of which split they are.
    """
    used, _ = list_files(folder, allow_outside_files)
    kind = "parquet"
    paths = [path for path in used if path.suffix.lower() == ".parquet"]
    if not paths:
        kind = "webdataset"
        paths = [path for path in used if path.suffix.lower() == ".tar"]
    if not paths:
        raise InputError(
            f"`--streaming` reads parquet files or WebDataset tars, and {str(folder)!r} has none. Expected {LAYOUTS}; "
            "a folder of images is read without it."
        )
    groups = group_by_split(folder, choose_configuration(folder, paths, config_name), name_split)
    splits = {}
    for split, found in groups.items():
        refuse_missing_shards(folder, found, split)
        files = [str((folder / path).absolute()) for path in found]
        read = read_common_features(files, split) if kind == "parquet" else read_tar_features(files[0], split)
        splits[split] = Shards(str(folder), kind, split, files, read, folder, allow_outside_files)
    return splits


def load_evaluation(train: Shards, splits: dict[str, Shards], eval_split: str | None) -> datasets.Dataset:
    """
    Load the split to evaluate on, whole, and say what is streamed.

    Raises:
        InputError: if there is none beside the one that is streamed.
    """
    if eval_split is None or splits[eval_split] is train:
        raise InputError(
            f"`--streaming` holds no part of the {train.split} split out, and {show(train.name)!r} has no other split "
            f"to evaluate on: name one with `--eval_split`, or put some of the files into a split of their own. "
            f"Expected {LAYOUTS}."
        )
    kind = "parquet files" if train.kind == "parquet" else "tars"
    print(f"Streaming the {train.split} split: {len(train)} samples in {len(train.files)} {kind}, as counted in them.")
    return splits[eval_split].load()
