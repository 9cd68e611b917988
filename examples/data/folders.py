"""Local folders: images by class, or parquet files, in splits that top-level folders or file names say."""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet

from examples.errors import InputError


# What a folder or file of each split may be called, in any capitalisation.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}
IMAGE_EXTENSIONS = {
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}
TABLE_EXTENSIONS = {".csv", ".tsv", ".json", ".jsonl", ".xml", ".xlsx"}
LAYOUTS = "FOLDER/train/CLASS/image.png (and FOLDER/test/...), FOLDER/CLASS/image.png, or FOLDER/train.parquet"


def shorten(names: list[str], limit: int = 3) -> str:
    """List some names and say how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the files below a folder, relative to it and sorted: those to use, and the hidden ones."""
    used: list[Path] = []
    hidden: list[Path] = []
    for parent, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent) + os.sep
        # A link to a folder that it lies in has no end.
        names[:] = [name for name in names if not real.startswith(os.path.realpath(Path(parent, name)) + os.sep)]
        for file in files:
            path = Path(parent, file).relative_to(folder)
            is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
            (hidden if is_hidden else used).append(path)
    return sorted(used, key=Path.as_posix), sorted(hidden, key=Path.as_posix)


def holds_data(folder: Path) -> bool:
    """Whether there are images or parquet files below a folder."""
    used, _ = list_files(folder)
    return any(path.suffix.lower() in IMAGE_EXTENSIONS | {".parquet"} for path in used)


def load_local_folder(folder: Path, config_name: str | None = None) -> datasets.DatasetDict:
    """
    Load a folder of images by class, or one of parquet files. Whatever is left out is said in a printed line.

    Raises:
        InputError: if it holds neither, or if it cannot be told which image or file belongs to which split or class.
    """
    used, hidden = list_files(folder)
    parquet_files = [path for path in used if path.suffix.lower() == ".parquet"]
    images = [path for path in used if path.suffix.lower() in IMAGE_EXTENSIONS]
    chosen = parquet_files or images
    if not chosen:
        raise InputError(f"The folder {str(folder)!r} holds no images and no parquet files. Expected {LAYOUTS}.")
    if hidden:
        print(f"Left out of {folder}, {len(hidden)} hidden: {shorten([path.as_posix() for path in hidden])}.")
    others = Counter(path.suffix.lower() or path.name for path in used if path not in set(chosen))
    if others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        print(f"Left out of {folder}, {others.total()} of other kinds: {listed}.")
    if parquet_files:
        return load_parquet_files(folder, parquet_files, config_name)
    if config_name is not None:
        raise InputError(f"A folder of images has no configurations: leave out `--dataset_config_name {config_name}`.")
    has_tables = any(path.suffix.lower() in TABLE_EXTENSIONS for path in used)
    return load_image_files(folder, images, has_tables)


def group_by_split(folder: Path, paths: list[Path], name_of: Callable[[Path], str]) -> dict[str, list[Path]]:
    """Group paths by the split that their names mean; two names for one split are refused."""
    groups: dict[str, list[Path]] = {}
    given_names: dict[str, str] = {}
    for path in paths:
        given = name_of(path)
        split = SPLIT_NAMES.get(given.lower(), given)
        if given_names.setdefault(split, given) != given:
            raise InputError(
                f"In the folder {str(folder)!r} both {given_names[split]!r} and {given!r} mean the {split} split. "
                "Keep one of them, or merge them."
            )
        groups.setdefault(split, []).append(path)
    return groups


def name_parquet_split(path: Path) -> str:
    """The name of a parquet file's split: the first split word in its name, else that of a folder, else its prefix."""
    for part in (path.stem, *reversed(path.parent.parts)):
        for word in re.split(r"[^A-Za-z]+", part):
            if word.lower() in SPLIT_NAMES:
                return word
    return path.stem.split("-")[0].split(".")[0]


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


def load_parquet_files(folder: Path, paths: list[Path], config_name: str | None) -> datasets.DatasetDict:
    """Load parquet files, each split by itself, so that each keeps its own table of classes."""
    splits = datasets.DatasetDict()
    for split, files in group_by_split(
        folder, choose_configuration(folder, paths, config_name), name_parquet_split
    ).items():
        names = [str((folder / path).absolute()) for path in files]
        features = []
        for name in names:
            try:
                features.append(datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(name)))
            except (OSError, ValueError) as error:
                raise InputError(f"The parquet file {name!r} cannot be read ({error}).") from error
            if features[-1] != features[0]:
                raise InputError(
                    f"The parquet files {names[0]!r} and {name!r} of the {split} split have different columns or "
                    "classes. Write them anew with the same ones."
                )
        # Escaped, because the library reads brackets and stars in a path as a pattern.
        data_files = {split: [glob.escape(name) for name in names]}
        try:
            splits[split] = datasets.load_dataset("parquet", data_files=data_files, split=split)
        except datasets.exceptions.DatasetGenerationError as error:
            raise InputError(
                f"The parquet files of the {split} split in {str(folder)!r} cannot be read ({error.__cause__})."
            ) from error
    return splits


def has_split_folders(folder: Path, images: list[Path]) -> bool:
    """
    Whether the top-level folders are splits, not classes.

    Raises:
        InputError: if some look like splits and others like classes.
    """
    tops = {path.parts[0] for path in images}
    named_as_splits = {top for top in tops if top.lower() in SPLIT_NAMES}
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
    if below and all(name.lower() in SPLIT_NAMES for name in below):
        raise InputError(
            f"In the folder {str(folder)!r} the folders {shorten(sorted(below))} lie inside the classes, but splits "
            f"are told by the top-level folders. Expected {LAYOUTS}."
        )


def load_image_files(folder: Path, images: list[Path], has_tables: bool) -> datasets.DatasetDict:
    """
    Load images whose class is the first folder below the split.

    Raises:
        InputError: if there are fewer than two classes.
    """
    if all(path.parts[0] == "data" for path in images):
        folder, images = folder / "data", [path.relative_to("data") for path in images]
    in_folders = [path for path in images if len(path.parts) > 1]
    is_split = has_split_folders(folder, in_folders)
    depth = 2 if is_split else 1
    labelled = [path for path in in_folders if len(path.parts) > depth]
    stray = [path.as_posix() for path in images if len(path.parts) <= depth]
    classes = {path.parts[depth - 1] for path in labelled}
    if len(classes) < 2:
        tables = " Labels in a table are not read." if has_tables else ""
        raise InputError(
            f"The folder {str(folder)!r} has {f'only the class {classes.pop()!r}' if classes else 'no classes'}: "
            f"at least two are needed, each a folder of images.{tables} Expected {LAYOUTS}."
        )
    if stray:
        print(f"Left out of {folder}, {len(stray)} in no folder of a class: {shorten(stray)}.")
    with_images = {Path(*path.parts[:depth]) for path in labelled}
    for parent in sorted({path.parent for path in with_images}):
        names = [name.name for name in (folder / parent).iterdir() if name.is_dir() and name.name[0] != "."]
        empty = sorted(name for name in names if parent / name not in with_images and name != "__MACOSX")
        if empty:
            print(f"Left out of {folder / parent}, without an image: {shorten(empty)}.")
    if not is_split:
        refuse_splits_inside_classes(folder, labelled)
    groups = group_by_split(folder, labelled, lambda path: path.parts[0] if is_split else "train")
    return datasets.DatasetDict({split: build_image_split(folder, paths, depth) for split, paths in groups.items()})


def build_image_split(folder: Path, paths: list[Path], depth: int) -> datasets.Dataset:
    """Build the data set of one split, with the classes that it has itself."""
    labels = [path.parts[depth - 1] for path in paths]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(set(labels)))})
    # Absolute, so that the images are found from any working directory.
    images = [str((folder / path).absolute()) for path in paths]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
