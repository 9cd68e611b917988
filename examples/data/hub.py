"""Data sets of the Hub: loaded into the cache, or their files found to be read as a stream."""

import os

import datasets
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub.constants import HF_HUB_CACHE

from examples.data.files import refuse_linked_images
from examples.data.parquet_files import read_features
from examples.data.shard_sources import read_tar_features
from examples.data.shards import Shards
from examples.errors import InputError


def open_hub_shards(hub_id: str, config_name: str | None, allow_outside_files: bool) -> dict[str, Shards]:
    """
    Find the shards of a data set of the Hub, of which nothing is downloaded yet.

    Raises:
        InputError: if it has other files than parquet files and WebDataset tars.
    """
    builder = datasets.load_dataset_builder(hub_id, config_name)
    kind = "parquet" if isinstance(builder, Parquet) else "webdataset" if isinstance(builder, WebDataset) else None
    if kind is None:
        raise InputError(
            f"`--streaming` reads parquet files or WebDataset tars, and {hub_id!r} has neither. Leave it out."
        )
    splits = {}
    for split, files in builder.config.data_files.items():
        # The card of a data set may name the classes, which its files do not.
        features = builder.info.features
        if features is None:
            features = read_features(files[0]) if kind == "parquet" else read_tar_features(files[0], split)
        splits[str(split)] = Shards(hub_id, kind, str(split), list(files), features, None, allow_outside_files)
    return splits


def load_hub_splits(
    hub_id: str, config_name: str | None, allow_outside_files: bool, streaming: bool
) -> datasets.DatasetDict | dict[str, Shards]:
    """
    Load all splits of a data set of the Hub, or find their shards for a stream.

    Raises:
        InputError: if that cannot be done, or if a row's image is a path out of the cache, unless that is allowed.
    """
    try:
        if streaming:
            return open_hub_shards(hub_id, config_name, allow_outside_files)
        splits = datasets.load_dataset(hub_id, config_name)
    except InputError:
        raise
    except Exception as error:
        # Which exception tells an unknown name, a missing login or a missing network changes between versions.
        raise InputError(
            f"The data set {hub_id!r} could not be loaded from the Hub ({type(error).__name__}: {error}). "
            f"Without a network pass a local folder with its files, or one of digits, triangle, sort_of_clevr, as "
            "`--dataset_name`."
        ) from error
    if not allow_outside_files:
        caches = (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE)
        refuse_linked_images(splits, hub_id, [os.path.realpath(cache) for cache in caches])
    return splits
