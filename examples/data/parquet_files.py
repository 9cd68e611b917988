"""Local folders of parquet files, in splits that the names of the files or folders say, as the Hub lays them."""

import glob
import os
import re
from pathlib import Path

import datasets
import pyarrow.parquet
from huggingface_hub import HfFileSystem

from examples.data.files import (
    SPLIT_NAMES,
    find_linked_images,
    find_roots,
    group_by_split,
    refuse_linked_images,
    shorten,
)
from examples.errors import InputError, flatten_message
from examples.sharing import show


def name_split(path: Path) -> str:
    """The name of a parquet file's split: the first split word in its name, else that of a folder, else its prefix."""
    for part in (path.stem, *reversed(path.parent.parts)):
        for word in re.split(r"[^A-Za-z]+", part):
            if word.lower() in SPLIT_NAMES:
                return word
    prefix = path.stem.split("-")[0].split(".")[0]
    # Numbers alone name no split.
    return "train" if prefix.isdigit() else prefix


def choose_configuration(folder: Path, paths: list[Path], config_name: str | None) -> list[Path]:
    """Keep the parquet files of one configuration, which is a folder that is named neither `data` nor as a split."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        parts = [part for part in path.parent.parts if part != "data" and part.lower() not in SPLIT_NAMES]
        groups.setdefault("/".join(parts), []).append(path)
    if config_name is None and len(groups) == 1:
        return paths
    if config_name not in groups:
        known = ", ".join(repr(name or ".") for name in sorted(groups))
        raise InputError(
            f"The folder {str(folder)!r} has parquet files in {known}: say which with `--dataset_config_name`, "
            "or pass the folder that holds them."
        )
    return groups[config_name]


def refuse_missing_shards(folder: Path, paths: list[Path], split: str) -> None:
    """Refuse a split of which some files are missing, as after a download that was cut off."""
    counts = {(path.parent, int(found[1])) for path in paths if (found := re.search(r"-of-(\d+)", path.stem))}
    for parent, count in counts:
        present = {
            int(found[1])
            for path in paths
            if path.parent == parent and (found := re.search(rf"-(\d+)-of-0*{count}(?!\d)", path.stem))
        }
        missing = [str(index) for index in range(count) if index not in present]
        if missing:
            raise InputError(
                f"The {split} split in {str(folder / parent)!r} has {len(present)} of its {count} files; "
                f"missing are those with the numbers {shorten(missing)}. Download them."
            )


def open_file(path: str, is_sequential: bool = False):
    """Open a file of this machine or of the Hub (`hf://...`), to be read here and there or from its beginning on."""
    if not path.startswith("hf://"):
        return open(path, "rb")
    # The block that the library reads ahead by itself would be thrown away at the next place.
    return HfFileSystem().open(path, "rb", **({} if is_sequential else {"cache_type": "none"}))


def read_features(file: str) -> datasets.Features:
    """
    The columns of a parquet file. One of structs of `bytes` and `path` holds images, whoever wrote it.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        with open_file(file) as opened:
            features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(opened))
    # Metadata of another form than the library writes raise whatever they meet.
    except Exception as error:
        raise InputError(f"The parquet file {show(file)!r} cannot be read ({describe(error)}).") from error
    for name, feature in features.items():
        if isinstance(feature, dict) and set(feature) == {"bytes", "path"}:
            features[name] = datasets.Image()
    return features


def describe(error: BaseException) -> str:
    """An error's message on one line, to stand within a sentence."""
    return flatten_message(error).removesuffix(".")


def read_common_features(files: list[str], split: str) -> datasets.Features:
    """
    The columns of the parquet files of one split.

    Raises:
        InputError: if a file cannot be read, or if they have different columns or classes.
    """
    features = [read_features(file) for file in files]
    for file, other in zip(files, features):
        if other != features[0]:
            raise InputError(
                f"The parquet files {files[0]!r} and {file!r} of the {split} split have different columns or "
                "classes. Write them anew with the same ones."
            )
    return features[0]


def load_split(files: list[str], split: str) -> datasets.Dataset:
    """
    Load the parquet files of one split, which keeps its own table of classes.

    Raises:
        InputError: if a file cannot be read, or if they have different columns or classes.
    """
    features = read_common_features(files, split)
    if sum(pyarrow.parquet.read_metadata(file).num_rows for file in files) == 0:
        return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    # Escaped, because the library reads brackets and stars in a path as a pattern.
    data_files = {split: [glob.escape(file) for file in files]}
    try:
        return datasets.load_dataset("parquet", data_files=data_files, split=split, features=features)
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        for file in files:
            try:
                pyarrow.parquet.read_table(file)
            except (OSError, ValueError) as cause:
                raise InputError(f"The parquet file {show(file)!r} cannot be read ({describe(cause)}).") from error
        raise InputError(
            f"The parquet files of the {split} split cannot be read ({describe(error.__cause__ or error)}): "
            f"{shorten(files)}."
        ) from error


def find_images_from(folder: Path, data: datasets.Dataset) -> datasets.Dataset:
    """Let the paths of images that are no part of the parquet files count from the data folder."""
    for column, feature in data.features.items():
        if isinstance(feature, datasets.Image) and find_linked_images(data, column):
            images = data.select_columns(column).cast_column(column, datasets.Image(decode=False))[column][:]
            for image in images:
                if image is not None and image["bytes"] is None and image["path"] is not None:
                    image["path"] = os.path.join(folder.absolute(), image["path"])
            data = data.remove_columns(column).add_column(column, images, feature=datasets.Image())
    return data


def find_linked_files(folder: Path, splits: datasets.DatasetDict, allow_outside_files: bool) -> datasets.DatasetDict:
    """
    Let the paths in all splits count from the data folder.

    Raises:
        InputError: if a path leads out of it, unless that is allowed.
    """
    if not allow_outside_files:
        refuse_linked_images(splits, folder, find_roots(folder), folder.absolute())
    return datasets.DatasetDict({split: find_images_from(folder, data) for split, data in splits.items()})


def load_parquet_files(
    folder: Path, paths: list[Path], config_name: str | None, allow_outside_files: bool
) -> datasets.DatasetDict:
    """
    Load the parquet files of a folder, each split by itself.

    Raises:
        InputError: if a file cannot be read or is missing, or if a row's image is a path out of the folder.
    """
    groups = group_by_split(folder, choose_configuration(folder, paths, config_name), name_split)
    splits = datasets.DatasetDict()
    for split, files in groups.items():
        refuse_missing_shards(folder, files, split)
        splits[split] = load_split([str((folder / path).absolute()) for path in files], split)
    return find_linked_files(folder, splits, allow_outside_files)
