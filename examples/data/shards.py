"""A split as shards, parquet files or WebDataset tars, here or on the Hub, read one row after the other."""

import glob
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
from datasets.packaged_modules.webdataset.webdataset import DECODERS, base_plus_ext

from examples.data.files import find_roots, is_inside, refuse_outside_files, shorten
from examples.data.parquet_files import describe, find_linked_files, load_split, open_file
from examples.errors import InputError
from examples.sharing import show


# Files that are opened at once to count their rows.
NUM_READERS = 16
# What the readers of parquet and of tars raise over a file that is damaged or cannot be reached.
READING_ERRORS = (OSError, ValueError, tarfile.TarError, datasets.exceptions.DatasetGenerationError)


def read_tar_column(path: str, column: str | None) -> list[Any]:
    """Read a field of every sample of a WebDataset tar, `None` where it is missing; images are passed over unread."""
    values: list[Any] = []
    last_key = None
    with open_file(path, is_sequential=True) as file, tarfile.open(fileobj=file) as archive:
        for member in archive:
            # The samples are those that the reader of `datasets` finds.
            key, name = base_plus_ext(member.name)
            if not member.isreg() or key is None or os.path.basename(member.name).startswith((".", "__")):
                continue
            if key != last_key:
                values.append(None)
                last_key = key
            if name == column:
                content = archive.extractfile(member).read()  # type: ignore[union-attr]  # it is a regular file
                decode = DECODERS.get(name.rsplit(".", 1)[-1].lower(), bytes)
                try:
                    values[-1] = decode(content)
                except ValueError:
                    raise InputError(
                        f"The sample {show(key)!r} of {show(path)} has the label {show(repr(content[:40]))} in column "
                        f"{column!r}, which cannot be read. Label or remove it."
                    ) from None
    return values


@dataclass
class Shards:
    """
    One split of a data set, as files of rows.

    It has the names and types of its columns, and reads a column of labels, as `datasets.Dataset` does; images are
    read by `read_rows` alone.

    Args:
        name: The data set, as messages name it.
        kind: `parquet` or `webdataset`.
        split: Name of the split.
        files: The files, in the order of the rows: paths, or addresses on the Hub.
        features: The columns.
        folder: The local folder that holds them, or `None`.
        allow_outside_files: Whether rows may name images outside that folder.
    """

    name: str
    kind: str
    split: str
    files: list[str]
    features: datasets.Features
    folder: Path | None = None
    allow_outside_files: bool = False
    columns: dict[str | None, list[pyarrow.Array]] = field(default_factory=dict)
    streams: dict[str, datasets.IterableDataset] = field(default_factory=dict)

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    @property
    def image_fields(self) -> tuple[str, ...]:
        """What images are called in tars."""
        return ("jpg", "jpeg", "png", "webp") if self.kind == "webdataset" else ()

    @property
    def label_fields(self) -> tuple[str, ...]:
        """What classes are called in tars."""
        return ("cls",) if self.kind == "webdataset" else ()

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each file. A parquet file says so at its end; a tar is gone through once."""
        if self.columns:
            return list(map(len, next(iter(self.columns.values()))))
        return self.read_all(count_parquet_rows) if self.kind == "parquet" else list(map(len, self.read_column(None)))

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, column: str) -> list[Any]:
        """The values of a column that holds no images, over all files."""
        return pyarrow.chunked_array(self.read_column(column)).to_pylist()

    def read_all(self, read: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Read something of each file, of several at once; an `InputError` names the first that cannot be read."""

        def read_one(file: str) -> Any:
            try:
                return read(file, *arguments)
            except InputError:
                raise
            except READING_ERRORS as error:
                raise self.explain(file, error) from error

        with ThreadPoolExecutor(NUM_READERS) as pool:
            return list(pool.map(read_one, self.files))

    def explain(self, file: str, error: BaseException) -> InputError:
        what = "parquet file" if self.kind == "parquet" else "tar"
        return InputError(f"The {what} {show(file)!r} cannot be read ({describe(error.__cause__ or error)}).")

    def read_column(self, column: str | None) -> list[pyarrow.Array]:
        """Read a column of labels, without the images: an array for each file."""
        if column not in self.columns:
            read = read_parquet_column if self.kind == "parquet" else read_tar_column
            values = self.read_all(read, column)
            if self.kind == "webdataset":
                schema_type = self.features.arrow_schema.field(column).type if column else pyarrow.null()
                values = [pyarrow.array(part, type=schema_type) for part in values]
            self.columns[column] = values
        return self.columns[column]

    def select_columns(self, names: list[str]) -> datasets.Dataset:
        """Make a table of all rows with the images, which stay `None`, and the labels, in the order of the files."""
        image_column, label_column = names
        features = datasets.Features({name: self.features[name] for name in names})
        schema = features.arrow_schema
        labels = pyarrow.chunked_array(self.read_column(label_column)).cast(schema.field(label_column).type)
        images = pyarrow.nulls(len(labels), schema.field(image_column).type)
        table = pyarrow.table([images, labels], names=names)
        return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))

    def load(self) -> datasets.Dataset:
        """Load all rows with their images into the cache of `datasets`."""
        if self.kind == "parquet" and self.folder is not None:
            splits = datasets.DatasetDict({self.split: load_split(self.files, self.split)})
            return find_linked_files(self.folder, splits, self.allow_outside_files)[self.split]
        try:
            return datasets.load_dataset(
                self.kind, data_files=self.data_files, split=self.split, features=self.features
            )
        except READING_ERRORS as error:
            raise InputError(
                f"The files of the {self.split} split of {show(self.name)!r} cannot be read "
                f"({describe(error.__cause__ or error)}): {shorten(self.files)}."
            ) from error

    @property
    def data_files(self) -> dict[str, list[str]]:
        # Escaped, because the library reads brackets and stars in a path as a pattern.
        return {self.split: [glob.escape(file) for file in self.files]}

    def read_rows(self, image_column: str, shard: int, rows: np.ndarray) -> Iterator[dict[str, Any] | None]:
        """
        Read the images of some rows of one file, as `datasets` stores them, not decoded.

        Args:
            image_column: The column.
            shard: Index of the file.
            rows: Rows of the file, in increasing order.

        Raises:
            InputError: if the file cannot be read or has fewer rows by now, or if an image lies outside the folder.
        """
        pending = rows.tolist()
        position = 0
        try:
            stream = self.open_stream(image_column).shard(len(self.files), shard).skip(pending[0])
            # By `iter`, because the stream itself would be divided among the workers once more.
            for row, batch in enumerate(stream.iter(batch_size=1), start=pending[0]):
                if row == pending[position]:
                    yield self.locate(batch[image_column][0], row)
                    position += 1
                    if position == len(pending):
                        return
        except READING_ERRORS as error:
            raise error if isinstance(error, InputError) else self.explain(self.files[shard], error) from error
        raise InputError(f"{show(self.files[shard])} has no row {pending[position]} any more: it has changed.")

    def open_stream(self, image_column: str) -> datasets.IterableDataset:
        """The images of all files, as a stream that can be divided into the files; opened once."""
        if image_column not in self.streams:
            # A tar is read whole whatever is asked of it.
            options = {"columns": [image_column]} if self.kind == "parquet" else {}
            stream = datasets.load_dataset(
                self.kind,
                data_files=self.data_files,
                split=self.split,
                streaming=True,
                features=self.features,
                **options,
            )
            stream = stream.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
            self.streams[image_column] = stream
        return self.streams[image_column]

    def locate(self, encoded: dict[str, Any] | None, row: int) -> dict[str, Any] | None:
        """Let the path of an image that is no part of its file count from the data folder, and not leave it."""
        if encoded is None or encoded["bytes"] is not None or encoded["path"] is None:
            return encoded
        path = os.path.join("" if self.folder is None else self.folder.absolute(), encoded["path"])
        roots = [] if self.folder is None else find_roots(self.folder)
        if not self.allow_outside_files and not is_inside(path, roots):
            refuse_outside_files(self.folder or self.name, [f"row {row} of the {self.split} split ({path})"])
        return {**encoded, "path": path}


def count_parquet_rows(path: str) -> int:
    with open_file(path) as file:
        return pyarrow.parquet.read_metadata(file).num_rows


def read_parquet_column(path: str, column: str) -> pyarrow.Array:
    with open_file(path) as file:
        return pyarrow.parquet.read_table(file, columns=[column])[column].combine_chunks()
