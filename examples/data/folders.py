"""Local folders: images by class, or parquet files, in splits that top-level folders or file names say."""

import re
from collections import Counter
from pathlib import Path

import datasets

from examples.data.files import (
    DATA_EXTENSIONS,
    IMAGE_EXTENSIONS,
    SPLIT_NAMES,
    group_by_split,
    is_text,
    list_files,
    normalize_name,
    shorten,
)
from examples.data.parquet_files import load_parquet_files
from examples.errors import InputError
from examples.sharing import show


# Of a trained model's folder, which is no data set.
IMAGES_OF_MODELS = {"example.png"}
TABLE_EXTENSIONS = {".csv", ".tsv", ".json", ".jsonl", ".xml", ".xlsx"}
LAYOUTS = "FOLDER/train/CLASS/image.png (and FOLDER/test/...), FOLDER/CLASS/image.png, or FOLDER/train.parquet"


def holds_data(folder: Path) -> bool:
    """Whether there are images or parquet files below a folder."""
    used, _ = list_files(folder, allow_outside_files=True)
    return any(path.suffix.lower() in DATA_EXTENSIONS and path.name not in IMAGES_OF_MODELS for path in used)


def load_local_folder(
    folder: Path, config_name: str | None = None, allow_outside_files: bool = False, min_classes: int = 2
) -> datasets.DatasetDict:
    """
    Load a folder of images by class, or one of parquet files. Whatever is left out is said in a printed line.

    Images must be of `min_classes` classes.

    Raises:
        InputError: if it holds neither, if it cannot be told which image or file belongs to which split or class, or
            if a link or a path leads out of it, unless that is allowed.
    """
    if not is_text(str(folder.absolute())):
        raise InputError(f"The name of the folder {show(folder)} is not valid UTF-8. Rename it.")
    used, hidden = list_files(folder, allow_outside_files)
    parquet_files = [path for path in used if path.suffix.lower() == ".parquet"]
    images = [path for path in used if path.suffix.lower() in IMAGE_EXTENSIONS]
    chosen = parquet_files or images
    if not chosen:
        raise InputError(f"The folder {str(folder)!r} holds no images and no parquet files. Expected {LAYOUTS}.")
    if hidden:
        print(f"Left out of {show(folder)}, {len(hidden)} hidden: {shorten([path.as_posix() for path in hidden])}.")
    unused = set(used) - set(chosen)
    others = Counter(path.suffix.lower() or "without an extension" for path in unused)
    if others:
        listed = ", ".join(f"{count} {show(suffix)}" for suffix, count in sorted(others.items()))
        print(f"Left out of {show(folder)}, {others.total()} of other kinds: {listed}.")
    if parquet_files:
        return load_parquet_files(folder, parquet_files, config_name, allow_outside_files)
    if config_name is not None:
        raise InputError(f"A folder of images has no configurations: leave out `--dataset_config_name {config_name}`.")
    has_tables = any(path.suffix.lower() in TABLE_EXTENSIONS for path in used)
    return load_image_files(folder, images, has_tables, min_classes)


def refuse_names_like_splits(folder: Path, images: list[Path]) -> None:
    """Refuse folders such as `train_set` and `test_set` that hold the same folders, which would pass for classes."""
    below: dict[str, set[str]] = {}
    for path in images:
        below.setdefault(path.parts[0], set()).add(path.parts[1] if len(path.parts) > 2 else "")
    like_splits = [top for top in below if SPLIT_NAMES.keys() & set(re.split(r"[^a-z]+", top.lower()))]
    contents = [below[top] for top in like_splits]
    if len(like_splits) > 1 and "" not in set.union(*contents) and set.intersection(*contents):
        raise InputError(
            f"The folders {shorten(sorted(like_splits))} in {str(folder)!r} look like splits, which are told by names "
            f"such as 'train' and 'test' alone. Rename them. Expected {LAYOUTS}."
        )


def has_split_folders(folder: Path, images: list[Path]) -> bool:
    """
    Whether the top-level folders are splits, not classes.

    Raises:
        InputError: if some look like splits and others like classes.
    """
    tops = {path.parts[0] for path in images}
    named_as_splits = {top for top in tops if top.lower() in SPLIT_NAMES}
    if not named_as_splits:
        refuse_names_like_splits(folder, images)
    if not named_as_splits or named_as_splits == tops:
        return bool(named_as_splits)
    # A class may be called `train`, as a vehicle is: its images lie right in it, as in the classes beside it.
    with_classes = {path.parts[0] for path in images if len(path.parts) > 2} & named_as_splits
    if with_classes:
        raise InputError(
            f"The folder {str(folder)!r} holds the split {shorten(sorted(with_classes))} beside the folders "
            f"{shorten(sorted(tops - named_as_splits))}. Expected splits alone or classes alone: {LAYOUTS}."
        )
    return False


def refuse_splits_inside_classes(folder: Path, images: list[Path]) -> None:
    below = {path.parts[1] for path in images if len(path.parts) > 2}
    as_splits = {name for name in below if name.lower() in SPLIT_NAMES}
    if as_splits and as_splits == below:
        raise InputError(
            f"In the folder {str(folder)!r} the folders {shorten(sorted(below))} lie inside the classes, but splits "
            f"are told by the top-level folders. Expected {LAYOUTS}."
        )
    if as_splits:
        print(f"In {show(folder)} the folders {shorten(sorted(as_splits))} inside a class are no splits: all is used.")


def load_image_files(folder: Path, images: list[Path], has_tables: bool, min_classes: int) -> datasets.DatasetDict:
    """
    Load images whose class is the first folder below the split.

    Raises:
        InputError: if there are too few classes.
    """
    if all(path.parts[0] == "data" for path in images):
        folder, images = folder / "data", [path.relative_to("data") for path in images]
    in_folders = [path for path in images if len(path.parts) > 1]
    is_split = has_split_folders(folder, in_folders)
    depth = 2 if is_split else 1
    labelled = [path for path in in_folders if len(path.parts) > depth]
    stray = [path.as_posix() for path in images if len(path.parts) <= depth]
    classes = {normalize_name(path.parts[depth - 1]) for path in labelled}
    if len(classes) < min_classes:
        tables = " Labels in a table are not read." if has_tables else ""
        raise InputError(
            f"The folder {str(folder)!r} has {f'only the class {classes.pop()!r}' if classes else 'no classes'}: "
            f"at least {'two are' if min_classes > 1 else 'one is'} needed, each a folder of images.{tables} Expected "
            f"{LAYOUTS}."
        )
    if stray:
        print(f"Left out of {show(folder)}, {len(stray)} in no folder of a class: {shorten(stray)}.")
    with_images = {Path(*path.parts[:depth]) for path in labelled}
    for parent in sorted({path.parent for path in with_images}):
        names = [name.name for name in (folder / parent).iterdir() if name.is_dir() and name.name[0] != "."]
        empty = sorted(name for name in names if parent / name not in with_images and name != "__MACOSX")
        if empty:
            print(f"Left out of {show(folder / parent)}, without an image: {shorten(empty)}.")
    if not is_split:
        refuse_splits_inside_classes(folder, labelled)
    groups = group_by_split(folder, labelled, lambda path: path.parts[0] if is_split else "train")
    return datasets.DatasetDict({split: build_image_split(folder, paths, depth) for split, paths in groups.items()})


def build_image_split(folder: Path, paths: list[Path], depth: int) -> datasets.Dataset:
    """Build the data set of one split, with the classes that it has itself."""
    labels = [normalize_name(path.parts[depth - 1]) for path in paths]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(set(labels)))})
    # Absolute, so that the images are found from any working directory.
    images = [str((folder / path).absolute()) for path in paths]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
