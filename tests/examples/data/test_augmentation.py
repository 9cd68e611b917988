"""Augmentation, limits and the choice of splits: what a training run really sees."""

from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from examples import image_classification, image_classification_accelerate
from examples.data.arguments import DataArguments
from examples.data.images import ImagePixelsDataset, make_datasets
from examples.data.loading import load_image_data
from examples.errors import InputError


SIZE = 8


class StopError(Exception):
    """Ends a script where its data sets are made."""


@pytest.fixture
def same_images():
    """400 rows of one image, whose columns and rows all differ, so that a change shows where it was moved to."""
    levels = np.arange(1, SIZE * SIZE + 1, dtype=np.uint8).reshape(SIZE, SIZE)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = {"image": [Image.fromarray(levels)] * 400, "label": [0, 1] * 200}
    return datasets.Dataset.from_dict(table, features=features).cast_column("image", datasets.Image(decode=False))


@pytest.fixture
def see(same_images, processor):
    """What is seen of an epoch, as grey levels (400, 8, 8); 0 is what was padded."""

    def draw(crop_padding=0, horizontal_flip=False, seed=0, epoch=0, **options):
        processor.image_mean, processor.image_std = [0.0] * 3, [1.0] * 3
        pixels = ImagePixelsDataset(same_images, "image", processor, crop_padding, horizontal_flip, seed, **options)
        pixels.set_epoch(epoch)
        images = torch.stack([pixels[index] for index in range(400)])
        assert torch.equal(images[:, :1].expand_as(images), images)
        return (images[:, 0] * 255).round().to(torch.uint8).numpy()

    return draw


PLAIN = np.arange(1, SIZE * SIZE + 1, dtype=np.uint8).reshape(SIZE, SIZE)


def test_nothing_is_changed_unless_asked(see):
    assert (see() == PLAIN).all()


def test_half_of_the_images_are_flipped_left_to_right(see):
    images = see(horizontal_flip=True)
    is_flipped = (images == PLAIN[:, ::-1]).all(axis=(1, 2))
    assert (is_flipped | (images == PLAIN).all(axis=(1, 2))).all()
    # Four standard errors of a half.
    assert 160 <= is_flipped.sum() <= 240


def test_a_quarter_of_the_images_are_turned_by_each_quarter(see):
    counts = Counter(image.tobytes() for image in see(quarter_turns=True))
    turned = [np.rot90(PLAIN, number).tobytes() for number in range(4)]
    assert counts.keys() == {*turned}
    # Four standard errors of a quarter.
    assert all(65 <= count <= 135 for count in counts.values())
    both = {image.tobytes() for image in see(quarter_turns=True, horizontal_flip=True)}
    assert both == {np.rot90(image, number).tobytes() for image in (PLAIN, PLAIN[:, ::-1]) for number in range(4)}


def test_what_is_not_square_cannot_be_turned(make_flags, tmp_path):
    flags = make_flags(tmp_path / "run", {"image_size": [8, 16]}, quarter_turns=True)
    with pytest.raises(InputError, match=r"^`--quarter_turns` needs square images, but the model takes 8 x 16 pixels"):
        image_classification.main(flags)


def test_grey_models_take_no_data_sets(same_images, processor):
    processor.image_mean = processor.image_std = [0.5]
    with pytest.raises(InputError, match=r"^Data sets give RGB images of 3 channels, but the model takes 1\.$"):
        ImagePixelsDataset(same_images, "image", processor)


def test_crops_reach_every_offset(see):
    padded = np.pad(PLAIN, 2)
    crops = {
        padded[top : top + SIZE, left : left + SIZE].tobytes(): (left, top) for left in range(5) for top in range(5)
    }
    counts = Counter(crops[image.tobytes()] for image in see(crop_padding=2))
    # 400 crops of 25 offsets: 16 of each, give or take.
    assert len(counts) == 25
    assert max(counts.values()) < 40


@pytest.mark.parametrize("options", [{"crop_padding": 2}, {"horizontal_flip": True}, {"quarter_turns": True}])
def test_every_seed_epoch_and_image_has_a_draw_of_its_own(see, options):
    images = see(**options)
    assert (images != images[0]).any()
    for other in ({"seed": 1}, {"epoch": 1}):
        changed = (see(**options, **other) != images).any(axis=(1, 2)).mean()
        # Two independent draws differ for half of the flips and for 24 of 25 crops.
        assert changed > 0.4
    assert (see(**options, seed=5, epoch=3) == see(**options, seed=5, epoch=3)).all()


@pytest.mark.parametrize("cache_images", [False, True])
def test_arguments_and_seed_reach_the_training_images_alone(image_folder, processor, cache_images):
    arguments = DataArguments(str(image_folder), crop_padding=2, horizontal_flip=True, cache_images=cache_images)
    data = load_image_data(arguments)
    training, evaluation = make_datasets(data, arguments, processor, seed=3)
    expected = ImagePixelsDataset(data.train, "image", processor, 2, True, 3)
    plain = ImagePixelsDataset(data.train, "image", processor)
    for dataset in (training, expected):
        dataset.set_epoch(2)
    assert all(torch.equal(training[index]["pixel_values"], expected[index]) for index in range(12))
    assert not all(torch.equal(training[index]["pixel_values"], plain[index]) for index in range(12))
    plain = ImagePixelsDataset(data.evaluation, "image", processor)
    for epoch in (0, 1):
        evaluation.set_epoch(epoch)
        assert all(torch.equal(evaluation[index]["pixel_values"], plain[index]) for index in range(6))
    assert [sample["labels"].item() for sample in training] == data.train["label"][:]
    assert [sample["labels"].item() for sample in evaluation] == data.evaluation["label"][:]


@pytest.mark.parametrize("script", [image_classification, image_classification_accelerate])
def test_scripts_train_with_their_seed_and_augmentation(script, make_flags, tmp_path, monkeypatch):
    given = []

    def stop(data, arguments, processor, seed, device):
        given.append((len(data.train), arguments.crop_padding, arguments.horizontal_flip, seed, device.type))
        raise StopError

    monkeypatch.setattr("examples.data.images.make_datasets", stop)
    with pytest.raises(StopError):
        script.main(make_flags(tmp_path / "run", seed=17, crop_padding=3, horizontal_flip=True))
    assert given == [(64, 3, True, 17, "cpu")]


def write_parquet(folder, split, labels, first_level):
    """Rows whose image is of one level, which tells the rows apart."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    images = [Image.new("L", (4, 4), first_level + index) for index in range(len(labels))]
    data = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    data.to_parquet(folder / f"{split}.parquet")


def read_levels(data):
    return [image.convert("L").getpixel((0, 0)) for image in data.cast_column("image", datasets.Image())["image"]]


def test_string_labels_are_numbered_in_their_order(tmp_path):
    write_parquet(tmp_path, "train", ["owl", "cat", "dog"], 0)
    write_parquet(tmp_path, "test", ["dog", "owl", "cat"], 100)
    data = load_image_data(DataArguments(str(tmp_path)))
    assert data.label_names == ["cat", "dog", "owl"]
    assert data.train["label"][:] == [2, 0, 1]
    assert data.evaluation["label"][:] == [1, 2, 0]


def test_limits_draw_rows_at_random_and_always_the_same(tmp_path):
    labels = ["a"] * 50 + ["b"] * 50
    for split, first_level in (("train", 0), ("test", 100)):
        write_parquet(tmp_path, split, labels, first_level)
    limits = {"max_train_samples": 20, "max_eval_samples": 10}
    data, again = (load_image_data(DataArguments(str(tmp_path), **limits)) for _ in range(2))
    for part, same, number, first_level in (
        (data.train, again.train, 20, 0),
        (data.evaluation, again.evaluation, 10, 100),
    ):
        levels = read_levels(part)
        assert len(set(levels)) == number
        assert levels == read_levels(same)
        # Drawn from both classes, which come one after the other, and in no order.
        assert 0 < sum(part["label"][:]) < number
        assert levels != sorted(levels)
        assert [level >= first_level + 50 for level in levels] == [label == 1 for label in part["label"][:]]
    # A smaller limit draws the first of a larger one's.
    fewer = load_image_data(DataArguments(str(tmp_path), max_train_samples=5))
    assert read_levels(fewer.train) == read_levels(data.train)[:5]
    whole = load_image_data(DataArguments(str(tmp_path), max_train_samples=1000))
    assert sorted(read_levels(whole.train)) == list(range(100))


@pytest.mark.parametrize(
    ("splits", "arguments", "first_levels"),
    [
        (("train", "validation", "test"), {}, (0, 200)),
        (("train", "validation"), {}, (0, 100)),
        (("train", "validation", "test"), {"eval_split": "validation"}, (0, 100)),
        (("train", "validation", "test"), {"train_split": "test"}, (200, 100)),
        (("train", "validation", "test"), {"train_split": "validation"}, (100, 200)),
    ],
)
def test_test_split_is_preferred_and_the_training_split_never_evaluated_on(splits, arguments, first_levels, tmp_path):
    for split in splits:
        write_parquet(tmp_path, split, ["a", "b"] * 4, {"train": 0, "validation": 100, "test": 200}[split])
    data = load_image_data(DataArguments(str(tmp_path), **arguments))
    for part, first_level in zip((data.train, data.evaluation), first_levels):
        assert read_levels(part) == list(range(first_level, first_level + 8))


@pytest.mark.parametrize("arguments", [{}, {"train_split": "train"}])
def test_held_out_part_is_not_trained_on(arguments, tmp_path):
    write_parquet(tmp_path, "train", ["a", "b"] * 20, 0)
    data = load_image_data(DataArguments(str(tmp_path), **arguments))
    train, evaluation = read_levels(data.train), read_levels(data.evaluation)
    assert len(evaluation) == 4
    assert sorted(train + evaluation) == list(range(40))


def test_training_split_is_evaluated_on_only_with_a_warning(tmp_path, capsys):
    for split in ("train", "test"):
        write_parquet(tmp_path, split, ["a", "b"] * 4, 0)
    load_image_data(DataArguments(str(tmp_path)))
    assert "Warning" not in capsys.readouterr().out
    load_image_data(DataArguments(str(tmp_path), eval_split="train"))
    assert "Warning: the train split is both trained and evaluated on." in capsys.readouterr().out
