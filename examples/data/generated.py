"""Generated benchmarks as `datasets`: every row is a pure function of (variant, seed, split, index)."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from examples.errors import InputError


SPLITS = ("train", "test")
# Rows per shard. Fixed, so that neither the rows nor their files depend on the number of processes.
SHARD_SIZE = 256


@dataclass
class GeneratedConfig(datasets.BuilderConfig):
    """
    What to generate. The name of the configuration is the variant.

    Args:
        seed: Seed of all random streams.
        num_train: Rows of the training split; with 0 there is none.
        num_test: Rows of the test split. A larger split begins with the rows of a smaller one.
    """

    seed: int = 0
    num_train: int = 0
    num_test: int = 0


class GeneratedBuilder(datasets.GeneratorBasedBuilder):
    """
    Base of the generated benchmarks. A subclass states `variants`, `features`, the default sizes, and `make_example`.

    Bump `VERSION` with every change of what is generated: the cache does not see the code.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = GeneratedConfig
    variants: tuple[str, ...]
    features: datasets.Features
    description: str
    make_example: Callable[[str, np.random.Generator], dict[str, Any]]
    default_sizes: tuple[int, int]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.description, features=self.features)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    "split_id": split_id,
                    "ranges": [(start, min(start + SHARD_SIZE, num_rows)) for start in range(0, num_rows, SHARD_SIZE)],
                },
            )
            for split_id, (split, num_rows) in enumerate(zip(SPLITS, (self.config.num_train, self.config.num_test)))
            if num_rows
        ]

    def _generate_examples(self, split_id: int, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, dict]]:
        for start, end in ranges:
            for index in range(start, end):
                yield index, self.generate(self.config.name, self.config.seed, split_id, index)

    @classmethod
    def generate(cls, variant: str, seed: int, split_id: int, index: int) -> dict[str, Any]:
        """Generate one row. Each has a random stream of its own, so train and test never share one."""
        return cls.make_example(variant, np.random.default_rng([seed, split_id, index]))


def encode_png(pixels: np.ndarray) -> dict[str, Any]:
    """Encode an image (height, width, 3) of uint8 as `datasets` stores it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def load_generated(
    builder_class: type[GeneratedBuilder],
    variant: str | None = None,
    seed: int = 0,
    num_train: int | None = None,
    num_test: int | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    only_test: bool = False,
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """
    Generate a benchmark, or open it where it was generated before.

    Args:
        builder_class: `SortOfClevr` or `Triangle`.
        variant: One of `builder_class.variants`. Default: the first.
        seed: Seed of all random streams, at least 0 and below 2**32.
        num_train: Rows of the training split. Default: the benchmark's.
        num_test: Rows of the test split. Default: the benchmark's.
        num_proc: Processes that generate. Default: one for each CPU core. The rows do not depend on it.
        streaming: Whether to generate while iterating, without a file.
        cache_dir: Where to keep the files. Default: the cache of `datasets`.
        only_test: Whether the test split is enough, so that no training split is generated.

    Raises:
        InputError: for an unknown variant, a seed out of range or a size below 1.
    """
    sizes = [
        default if given is None else given
        for given, default in zip((num_train, num_test), builder_class.default_sizes)
    ]
    variant = builder_class.variants[0] if variant is None else variant
    if variant not in builder_class.variants:
        known = ", ".join(builder_class.variants)
        raise InputError(f"{builder_class.__name__} has no variant {variant!r}. Known variants: {known}.")
    # A larger seed would take the place of two words of the random stream's key.
    if not 0 <= seed < 2**32 or min(sizes) < 1:
        raise InputError(
            "A generated benchmark takes a seed of at least 0 and below 2**32 and at least 1 row in each split, not "
            f"seed {seed} and {sizes[0]} training and {sizes[1]} test rows."
        )
    place = None if cache_dir is None else str(cache_dir)
    build = partial(builder_class, config_name=variant, seed=seed, num_test=sizes[1], cache_dir=place)
    builder = build(num_train=sizes[0])
    if only_test and not Path(builder.cache_dir).exists():
        # The rows of the test split are the same.
        sizes[0] = 0
        builder = build(num_train=0)
    splits = SPLITS[1:] if only_test else SPLITS
    if streaming:
        return datasets.IterableDatasetDict({split: builder.as_streaming_dataset(split=split) for split in splits})
    num_shards = -(-max(sizes) // SHARD_SIZE)
    builder.download_and_prepare(num_proc=max(1, min(num_proc or os.cpu_count() or 1, num_shards)))
    return datasets.DatasetDict({split: builder.as_dataset(split=split) for split in splits})
