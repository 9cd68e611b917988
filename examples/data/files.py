"""The files of a local data folder: which there are, which split their names mean, and which lead out of it."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets

from examples.errors import InputError
from examples.sharing import show


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
DATA_EXTENSIONS = IMAGE_EXTENSIONS | {".parquet", ".tar"}


def shorten(names: list[str], limit: int = 3) -> str:
    """List some names and say how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(show, names[:limit])) + more


def normalize_name(name: str) -> str:
    """A name with each accented letter as one character: some systems write it as two, which look the same."""
    return unicodedata.normalize("NFC", name)


def find_roots(folder: Path) -> list[str]:
    """Where the files of a folder may be: below it, or among the Hub's blobs if it is a snapshot in the cache."""
    root = folder.resolve()
    roots = [root]
    for snapshots in root.parents:
        if snapshots.name == "snapshots" and (snapshots.parent / "blobs").is_dir():
            roots.append(snapshots.parent / "blobs")
    return [str(root) for root in roots]


def is_inside(path: str, roots: list[str]) -> bool:
    """Whether a path, with all links followed, is one of the roots or below one; one that no file can have is."""
    if "\0" in path:
        return True
    real = os.path.realpath(path)
    return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; links that lead in a circle are not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk(folder: Path) -> Iterator[os.DirEntry]:
    """
    All entries below a folder that are no folders, and the links to folders; what these lead to follows them.

    Raises:
        InputError: if a folder cannot be opened.
    """
    pending = [str(folder)]
    while pending:
        parent = pending.pop()
        real = os.path.realpath(parent) + os.sep
        try:
            entries = list(os.scandir(parent))
        except OSError as error:
            raise InputError(f"The folder {show(parent)} cannot be opened: {error.strerror}.") from error
        for entry in entries:
            if entry.is_symlink() or not is_folder(entry):
                yield entry
            # A link to a folder that it lies in has no end.
            if is_folder(entry) and not real.startswith(os.path.realpath(entry.path) + os.sep):
                pending.append(entry.path)


def list_files(folder: Path, allow_outside_files: bool = False) -> tuple[list[Path], list[Path]]:
    """
    List the files below a folder, relative to it and sorted: those to use, and the hidden ones.

    Raises:
        InputError: if a link leads out of the folder, unless that is allowed, or if a name is no text.
    """
    used: list[Path] = []
    hidden: list[Path] = []
    outside: list[str] = []
    roots = find_roots(folder)
    for entry in walk(folder):
        path = Path(entry.path).relative_to(folder)
        is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        is_link_to_data = entry.is_symlink() and (is_folder(entry) or path.suffix.lower() in DATA_EXTENSIONS)
        if is_link_to_data and not is_hidden and not is_inside(entry.path, roots):
            outside.append(path.as_posix())
        if not is_folder(entry):
            (hidden if is_hidden else used).append(path)
    if outside and not allow_outside_files:
        refuse_outside_files(folder, sorted(outside))
    broken = [path.as_posix() for path in used if not is_text(str(path))]
    if broken:
        raise InputError(
            f"In the folder {show(folder)} these names are not valid UTF-8: {shorten(broken)}. Rename them."
        )
    return sorted(used, key=Path.as_posix), sorted(hidden, key=Path.as_posix)


def is_text(name: str) -> bool:
    """Whether a file name can be written as UTF-8, as tables store it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_outside_files(folder: Path | str, names: list[str]) -> None:
    raise InputError(
        f"Files outside the data set {show(folder)} are not opened, but these lead there: {shorten(names)}. Copy what "
        "they lead to into the folder, or pass `--allow_outside_files True` if you trust it."
    )


def find_linked_images(data: datasets.Dataset, column: str) -> dict[int, str]:
    """The rows of an image column that hold a path instead of the image itself, with the paths."""
    linked: dict[int, str] = {}
    num_rows = 0
    for chunk in data.data.column(column).chunks:
        paths = chunk.field("path")
        for row in chunk.field("bytes").is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist():
            if chunk[row].is_valid and paths[row].is_valid:
                linked[num_rows + row] = paths[row].as_py()
        num_rows += len(chunk)
    return linked


def refuse_linked_images(
    splits: datasets.DatasetDict, name: Path | str, roots: list[str], where: Path | None = None
) -> None:
    """
    Refuse rows whose image is a path that leaves the roots; a relative path counts from `where`.

    Raises:
        InputError: if there are some; the message names them.
    """
    for split, data in splits.items():
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                outside = [
                    f"row {row} of the {split} split ({path})"
                    for row, path in find_linked_images(data, column).items()
                    if not is_inside(os.path.join(where or "", path), roots)
                ]
                if outside:
                    refuse_outside_files(name, outside)


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
