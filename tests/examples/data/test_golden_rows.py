"""What is generated must never change without a new version: digests of pixels, questions, answers and labels."""

import hashlib

import numpy as np
import pytest

from examples.data.generated import load_generated
from examples.data.sort_of_clevr import SortOfClevr
from examples.data.triangle import Triangle
from tests.examples.data.common import decode


DIGESTS = {
    (SortOfClevr, "fixed"): "c52cc986181e5d3fb537ba0bec693b44",
    (SortOfClevr, "original"): "148c760e75c715d3fe6b16afaac3dccf",
    (Triangle, "original"): "6a117b330dac726343041ac6cc4f0bf5",
    (Triangle, "matched"): "36cefbbfe327055f10b32ed96017eb5f",
}


@pytest.mark.parametrize(("builder", "variant"), DIGESTS)
def test_rows_are_those_of_the_version(builder, variant):
    digest = hashlib.sha256()
    for split_id in (0, 1):
        for index in range(8):
            row = builder.generate(variant, 7, split_id, index)
            digest.update(decode(row).tobytes())
            for name in sorted(set(row) - {"image"}):
                digest.update(np.asarray(row[name]).astype("<i8").tobytes())
    assert str(builder.VERSION) == "1.0.0"
    assert digest.hexdigest()[:32] == DIGESTS[builder, variant]


@pytest.mark.parametrize(
    ("builder", "variant", "sizes"), [(SortOfClevr, "fixed", (9800, 200)), (Triangle, "original", (50_000, 10_000))]
)
def test_defaults_are_the_published_ones(builder, variant, sizes):
    assert builder.variants[0] == variant
    assert builder.default_sizes == sizes


@pytest.mark.parametrize("builder", [SortOfClevr, Triangle])
def test_default_variant_and_splits_are_what_is_loaded(builder, tmp_path):
    splits = load_generated(builder, num_train=3, num_test=2, num_proc=1, cache_dir=tmp_path)
    for split_id, (split, number) in enumerate((("train", 3), ("test", 2))):
        assert len(splits[split]) == number
        for index in range(number):
            expected = decode(builder.generate(builder.variants[0], 0, split_id, index))
            np.testing.assert_array_equal(np.asarray(splits[split][index]["image"]), expected)
