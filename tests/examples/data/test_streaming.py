"""Streams from shards: the samples of the in-memory path, dealt to processes and workers, and where they go on."""

import itertools

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from examples.data.arguments import DataArguments
from examples.data.images import make_datasets
from examples.data.loading import load_image_data
from examples.data.shards import Shards
from examples.data.streaming import shuffle_within
from examples.errors import InputError
from tests.examples.shards import FEATURES, SIZES, encode, write_parquet, write_shards, write_tar


NUM_TRAIN = sum(SIZES["train"])
STRUCT = {"bytes": "binary", "path": "string"}


def load(folder, processor, **fields):
    """The training and the evaluation samples of a folder, augmented."""
    augmented = {"crop_padding": 1, "horizontal_flip": True, "quarter_turns": True, "random_erasing": 0.5}
    augmented["auto_augment"] = "trivialaugment"
    arguments = DataArguments(dataset_name=str(folder), **augmented, **fields)
    return make_datasets(load_image_data(arguments), arguments, processor, seed=3)


def open_stream(folder, processor, buffer_size=7, **fields):
    return load(folder, processor, streaming=True, shuffle_buffer_size=buffer_size, **fields)[0]


def list_batches(stream, batch_size=4, num_workers=0):
    loader = DataLoader(stream, batch_size=batch_size, num_workers=num_workers)
    return [[(pixels.numpy().tobytes(), int(label)) for pixels, label in zip(*batch.values())] for batch in loader]


def list_samples(stream, **options):
    return list(itertools.chain.from_iterable(list_batches(stream, **options)))


def list_in_memory(data):
    return [
        (sample["pixel_values"].numpy().tobytes(), int(sample["labels"]))
        for sample in map(data.__getitem__, range(len(data)))
    ]


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_stream_has_the_samples_of_the_set_in_memory(kind, limit, tmp_path, processor):
    write_shards(tmp_path / "parquet")
    in_memory, evaluation = load(tmp_path / "parquet", processor, max_train_samples=limit)
    folder = write_shards(tmp_path / kind, kind)
    stream, streams_evaluation = load(folder, processor, max_train_samples=limit, streaming=True)
    assert list_in_memory(evaluation) == list_in_memory(streams_evaluation)
    orders = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        in_memory.set_epoch(epoch)
        orders.append(list_samples(stream))
        assert sorted(orders[epoch]) == sorted(list_in_memory(in_memory))
        assert orders[epoch] == list_samples(stream)
    # The epochs differ in their order, not by the augmentation alone.
    assert [label for _, label in orders[0]] != [label for _, label in orders[1]]


@pytest.mark.parametrize(("num_processes", "num_workers"), [(1, 2), (2, 0), (2, 3), (3, 0), (7, 0)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_and_workers_share_every_epoch(num_processes, num_workers, drop_last, tmp_path, processor):
    stream = open_stream(write_shards(tmp_path / "set"), processor)
    whole = set(list_samples(stream))
    assert len(whole) == NUM_TRAIN
    in_all = 4 * num_processes
    num_batches = NUM_TRAIN // in_all if drop_last else -(-NUM_TRAIN // in_all)
    seen = []
    for rank in range(num_processes):
        stream.distribute(rank, num_processes, 4, drop_last)
        batches = list_batches(stream, num_workers=num_workers)
        # As many for each process, or the others would wait without end.
        assert len(batches) == num_batches == len(DataLoader(stream, batch_size=4))
        if num_processes > 1 or drop_last:
            assert {len(batch) for batch in batches} == {4}
        seen += itertools.chain.from_iterable(batches)
    counts = [seen.count(sample) for sample in whole]
    if drop_last:
        assert sum(counts) == len(seen) and max(counts) == 1
    elif num_processes == 1:
        assert counts == [1] * NUM_TRAIN
    else:
        # None is left out, and no more are repeated than the last batches need.
        assert min(counts) == 1 and max(counts) <= 2 and len(seen) == num_batches * in_all


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_skipped", [1, 2, 5, 12])
def test_stream_goes_on_with_what_is_left(num_workers, num_skipped, tmp_path, processor):
    stream = open_stream(write_shards(tmp_path / "set"), processor)
    stream.distribute(0, 1, 4, False)
    stream.set_epoch(1)
    batches = list_batches(stream, num_workers=num_workers)
    stream.skip(num_skipped)
    going_on = list_batches(stream, num_workers=num_workers)
    assert going_on[num_skipped:] == batches[num_skipped:]
    assert len(going_on) == len(batches)
    assert all(pixels == b"" for batch in going_on[:num_skipped] for pixels, _ in batch)
    stream.skip(0)
    assert list_batches(stream, num_workers=num_workers) == batches


def record_reads(monkeypatch):
    """A list that gets the shard and the rows of every read."""
    reads = []
    read_rows = Shards.read_rows

    def record(self, image_column, shard, rows):
        reads.append((shard, len(rows)))
        return read_rows(self, image_column, shard, rows)

    monkeypatch.setattr(Shards, "read_rows", record)
    return reads


def test_process_opens_its_own_shards_alone(tmp_path, processor, monkeypatch):
    folder = write_shards(tmp_path / "set", sizes={"train": (8, 8, 8, 8), "test": (2,)})
    stream = open_stream(folder, processor)
    reads = record_reads(monkeypatch)
    opened = []
    for rank in range(2):
        stream.distribute(rank, 2, 4, False)
        reads.clear()
        list_samples(stream)
        assert [count for _, count in reads] == [8, 8]
        opened += [shard for shard, _ in reads]
    assert sorted(opened) == [0, 1, 2, 3]


def test_resumed_stream_does_not_read_what_was_seen(tmp_path, processor, monkeypatch):
    folder = write_shards(tmp_path / "set", sizes={"train": (8, 8, 8, 8), "test": (2,)})
    stream = open_stream(folder, processor, buffer_size=3)
    stream.distribute(0, 1, 4, False)
    reads = record_reads(monkeypatch)
    stream.skip(5)
    assert len(list_samples(stream)) == 32
    assert sum(count for _, count in reads) == 12 and len(reads) == 2


@pytest.mark.parametrize("buffer_size", [1, 2, 5, 40, 100])
def test_buffer_gives_out_everything_and_holds_no_more_than_its_size(buffer_size):
    order = shuffle_within(40, buffer_size, np.random.default_rng(0))
    assert sorted(order) == list(range(40))
    # What is given out at a step was among those read by then.
    assert (order < np.arange(40) + buffer_size).all()
    assert (buffer_size == 1) == (order == np.arange(40)).all()
    # From the largest buffer every place is reached from everywhere: a shuffle of the whole.
    firsts = {int(shuffle_within(40, buffer_size, np.random.default_rng(seed))[0]) for seed in range(300)}
    assert firsts == set(range(min(buffer_size, 40)))
    assert len(shuffle_within(0, buffer_size, np.random.default_rng(0))) == 0


def test_seed_and_epoch_decide_the_order_of_shards(tmp_path, processor):
    stream = open_stream(write_shards(tmp_path / "set"), processor, buffer_size=1)
    orders = set()
    for epoch in range(6):
        stream.set_epoch(epoch)
        stretch, order = stream.deal(0, 1)
        assert (order == np.arange(NUM_TRAIN)).all()
        orders.add(tuple(stretch))
    assert len(orders) > 2


def test_label_columns_without_names_are_read_up_front(tmp_path, processor):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    write_parquet(tmp_path / "train-0.parquet", range(3), features, label=[7, 10, 7])
    write_parquet(tmp_path / "train-1.parquet", range(3, 6), features, label=[10, 9, 10])
    write_parquet(tmp_path / "test.parquet", range(6, 8), features, label=[10, 7])
    arguments = DataArguments(dataset_name=str(tmp_path), streaming=True)
    data = load_image_data(arguments)
    assert data.label_names == ["7", "9", "10"]
    stream, _ = make_datasets(data, arguments, processor, 0)
    assert sorted(label for _, label in list_samples(stream)) == [0, 0, 1, 2, 2, 2]


def refuse(folder, **fields):
    with pytest.raises(InputError) as refusal:
        load_image_data(DataArguments(dataset_name=str(folder), streaming=True, **fields))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_missing_label_is_refused_as_in_memory(tmp_path):
    write_shards(tmp_path / "set")
    write_parquet(tmp_path / "set" / "train-00001.parquet", range(13, 18), label=[0, None, 1, -1, 0])
    message = refuse(tmp_path / "set")
    with pytest.raises(InputError) as in_memory:
        load_image_data(DataArguments(dataset_name=str(tmp_path / "set")))
    assert message == str(in_memory.value)
    assert message.startswith("Rows 14, 16 of the training split have the label None")


def test_missing_label_in_a_tar_is_refused(tmp_path):
    folder = write_shards(tmp_path / "set", "tar")
    write_tar(folder / "train-00003.tar", range(18, 27), [0, 1, 0, 1, 0, 1, None, 1, None])
    assert refuse(folder).startswith("Rows 24, 26 of the training split have the label None in column 'cls'")
    write_tar(folder / "train-00003.tar", range(18, 20), ["dog?", 1])
    assert "train-00003.tar has the label b'dog?' in column 'cls', which cannot be read" in (message := refuse(folder))
    assert message.startswith("The sample '00018' of")


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_image_that_cannot_be_read_is_named_when_reached(kind, tmp_path, processor, monkeypatch):
    folder = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr("tests.examples.shards.encode", lambda index: b"broken" if index == 16 else encode(index))
        write_shards(folder, kind)
    stream = open_stream(folder, processor)
    name = "row 3 of .*train-00001.parquet" if kind == "parquet" else r"00016\.png \(row 3 of .*train-00001.tar\)"
    for num_workers in (0, 2):
        with pytest.raises(InputError, match=rf"The image {name} cannot be read \(cannot identify image file\)"):
            list_samples(stream, num_workers=num_workers)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_damaged_shard_is_named(kind, tmp_path, processor):
    folder = write_shards(tmp_path / "set", kind)
    shard = folder / f"train-00004.{kind}"
    whole = shard.read_bytes()
    stream = open_stream(folder, processor)
    what = "parquet file" if kind == "parquet" else "tar"
    # After the run has begun, and before.
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=rf"(The {what} .*train-00004.{kind}' cannot be read|train-00004.*has changed)"
    ):
        list_samples(stream)
    shard.write_bytes(b"nothing of the kind")
    assert f"The {what} '{shard}' cannot be read" in refuse(folder)


def test_shard_that_became_shorter_is_named(tmp_path, processor):
    folder = write_shards(tmp_path / "set")
    stream = open_stream(folder, processor)
    write_parquet(folder / "train-00004.parquet", range(3))
    with pytest.raises(InputError, match=r"train-00004.parquet has no row 3 any more: it has changed."):
        list_samples(stream)


def test_paths_in_shards_count_from_the_folder_and_do_not_leave_it(tmp_path, processor):
    folder = write_shards(tmp_path / "set", sizes={"train": (4,), "test": (2,)})
    # As tables are written that do not take the images into the file.
    linked = datasets.Features({**FEATURES, "image": {name: datasets.Value(kind) for name, kind in STRUCT.items()}})
    inside = [{"bytes": None, "path": f"images/{index}.png"} for index in range(4)]
    (folder / "images").mkdir()
    for index in range(4):
        (folder / "images" / f"{index}.png").write_bytes(encode(index))
    whole = set(list_samples(open_stream(folder, processor)))
    write_parquet(folder / "train-00000.parquet", range(4), linked, image=inside)
    assert set(list_samples(open_stream(folder, processor))) == whole

    (tmp_path / "secret.png").write_bytes(encode(2))
    inside[2]["path"] = "../secret.png"
    write_parquet(folder / "train-00000.parquet", range(4), linked, image=inside)
    with pytest.raises(InputError, match=r"row 2 of the train split \(.*secret.png\).*--allow_outside_files"):
        list_samples(open_stream(folder, processor))
    assert set(list_samples(open_stream(folder, processor, allow_outside_files=True))) == whole


@pytest.mark.parametrize("name", ["digits", "triangle"])
def test_set_that_is_made_here_has_no_stream(name):
    assert refuse(name) == f"`--streaming` has no effect: '{name}' is made here, not read from files. Leave it out."


def test_folder_without_shards_is_refused(image_folder):
    assert "reads parquet files or WebDataset tars" in (message := refuse(image_folder))
    assert "a folder of images is read without it" in message


def test_stream_needs_a_split_to_evaluate_on(tmp_path):
    folder = write_shards(tmp_path / "set", sizes={"train": (6, 6)})
    assert "holds no part of the train split out" in refuse(folder)
    assert "holds no part of the train split out" in refuse(folder, eval_split="train")


def test_missing_shards_are_refused(tmp_path):
    folder = write_shards(tmp_path / "set", "tar", {"test": (2,)})
    for index in (0, 2):
        write_tar(folder / f"train-{index:05d}-of-00003.tar", range(3 * index, 3 * index + 3))
    assert "has 2 of its 3 files; missing are those with the numbers 1." in refuse(folder)


def test_link_out_of_the_folder_is_refused(tmp_path):
    folder = write_shards(tmp_path / "set", "tar")
    (folder / "train-00000.tar").rename(tmp_path / "outside.tar")
    (folder / "train-00000.tar").symlink_to(tmp_path / "outside.tar")
    assert "train-00000.tar" in (message := refuse(folder)) and "--allow_outside_files" in message
    load_image_data(DataArguments(dataset_name=str(folder), streaming=True, allow_outside_files=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"streaming": True, "cache_images": True}, "`--cache_images` opens all images before training"),
        ({"streaming": True, "check_images": True}, "`--check_images` opens all images before training"),
        ({"streaming": True, "skip_bad_images": True}, "`--skip_bad_images` opens all images before training"),
        ({"streaming": True, "mixup_alpha": 0.2}, "`--mixup_alpha` mixes each image with any other of the set"),
        ({"streaming": True, "cutmix_alpha": 1.0}, "`--cutmix_alpha` mixes each image with any other of the set"),
        ({"shuffle_buffer_size": 10}, "`--shuffle_buffer_size` has no effect without `--streaming True`"),
        ({"streaming": True, "shuffle_buffer_size": 0}, "`--shuffle_buffer_size` must be at least 1"),
    ],
)
def test_flags_that_cannot_go_with_a_stream_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        DataArguments(**fields)


def test_two_classes_are_needed(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", range(3), features, label=["cat"] * 3)
    assert "has one class (cat): two are needed" in refuse(tmp_path)


def test_unknown_column_is_refused_with_those_there_are(tmp_path):
    folder = write_shards(tmp_path / "set", "tar")
    assert "There is no column 'jpg' (`--image_column`). The data set has: png, cls" in refuse(
        folder, image_column="jpg"
    )
    assert "holds no images. It has: png (Image), cls (Value)" in refuse(
        folder, image_column="cls", label_column="__key__"
    )


def test_samples_have_the_shapes_that_the_model_takes(tmp_path, processor):
    stream = open_stream(write_shards(tmp_path / "set"), processor)
    sample = next(iter(stream))
    assert sample["pixel_values"].shape == (3, 8, 8) and sample["pixel_values"].dtype == torch.float32
    assert sample["labels"].shape == () and FEATURES["label"].num_classes == 2
