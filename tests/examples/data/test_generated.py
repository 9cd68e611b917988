"""Generated benchmarks: the same rows whatever makes them."""

import hashlib
import json

import datasets
import numpy as np
import pytest

from examples.data.generated import SHARD_SIZE, load_generated
from examples.data.sort_of_clevr import (
    SortOfClevr,
)
from examples.data.triangle import Triangle
from examples.errors import InputError


BUILDERS = pytest.mark.parametrize("builder", [SortOfClevr, Triangle])


def hash_rows(rows):
    """One digest of the raw rows, images as their encoded bytes."""
    digest = hashlib.sha256()
    for row in rows:
        values = {name: np.asarray(value).tolist() for name, value in row.items() if name != "image"}
        digest.update(json.dumps(values, sort_keys=True).encode() + row["image"]["bytes"])
    return digest.hexdigest()


@BUILDERS
@pytest.mark.parametrize("variant_index", [0, 1])
def test_rows_do_not_depend_on_processes_or_streaming(builder, variant_index, tmp_path):
    options = {
        "variant": builder.variants[variant_index],
        "seed": 3,
        "num_train": 2 * SHARD_SIZE + 7,
        "num_test": SHARD_SIZE + 1,
    }
    digests, files = set(), set()
    for num_proc in (1, 2, 3):
        splits = load_generated(builder, **options, num_proc=num_proc, cache_dir=tmp_path / str(num_proc))
        assert {name: len(split) for name, split in splits.items()} == {"train": 519, "test": 257}
        raw = {name: split.cast_column("image", datasets.Image(decode=False)) for name, split in splits.items()}
        digests.add((hash_rows(raw["train"]), hash_rows(raw["test"])))
        raw["train"].to_parquet(tmp_path / f"{num_proc}.parquet")
        files.add(hashlib.sha256((tmp_path / f"{num_proc}.parquet").read_bytes()).hexdigest())
    stream = load_generated(builder, **options, streaming=True)
    digests.add(
        tuple(hash_rows(stream[name].cast_column("image", datasets.Image(decode=False))) for name in ("train", "test"))
    )
    assert len(digests) == len(files) == 1
    # The rows of a smaller set begin those of a larger one; another seed has other rows; splits share none.
    direct = [builder.generate(options["variant"], 3, 1, index) for index in range(4)]
    first = [split_row["image"]["bytes"] for split_row in raw["test"].select(range(4))]
    assert [row["image"]["bytes"] for row in direct] == first
    assert builder.generate(options["variant"], 4, 1, 0)["image"] != direct[0]["image"]
    assert builder.generate(options["variant"], 3, 0, 0)["image"] != direct[0]["image"]


@BUILDERS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fixd"}, r"no variant 'fixd'. Known variants: \w+, \w+"),
        ({"seed": -1}, "seed of at least 0"),
        ({"num_test": 0}, "at least 1 row"),
    ],
)
def test_bad_options_are_refused(builder, options, message):
    with pytest.raises(InputError, match=message):
        load_generated(builder, **options)


@BUILDERS
def test_test_split_alone_has_the_same_rows_without_a_training_split(builder, tmp_path, monkeypatch):
    options = {"seed": 3, "num_train": 40, "num_test": 5, "num_proc": 1}
    generated = []
    generate = builder.generate.__func__

    def count(cls, variant, seed, split_id, index):
        generated.append(split_id)
        return generate(cls, variant, seed, split_id, index)

    monkeypatch.setattr(builder, "generate", classmethod(count))
    alone = load_generated(builder, **options, cache_dir=tmp_path / "alone", only_test=True)
    assert set(generated) == {1} and list(alone) == ["test"]
    whole = load_generated(builder, **options, cache_dir=tmp_path / "whole")
    # A set that is there already is not generated again.
    generated.clear()
    again = load_generated(builder, **options, cache_dir=tmp_path / "whole", only_test=True)
    assert generated == [] and list(again) == ["test"]
    raw = [splits["test"].cast_column("image", datasets.Image(decode=False)) for splits in (alone, whole, again)]
    assert len(raw[0]) == 5 and len({hash_rows(rows) for rows in raw}) == 1
    stream = load_generated(builder, **options, streaming=True, only_test=True)
    assert list(stream) == ["test"]
