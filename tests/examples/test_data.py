"""Loading by name, augmentation, and refusals that say what there is."""

import datasets
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from examples.data import ImageClassificationDataset, load_image_data
from examples.recipes import DataArguments, InputError


@pytest.fixture
def processor():
    return ViTImageProcessorPil(size={"height": 8, "width": 8})


def test_digits_are_split_the_same_way_every_time():
    data, again = load_image_data(DataArguments("digits")), load_image_data(DataArguments("digits"))
    assert (len(data.train), len(data.evaluation)) == (1437, 360)
    assert data.label_names == [str(digit) for digit in range(10)]
    assert data.evaluation[:] == again.evaluation[:]
    # Stratified: every digit has its share of the 360.
    assert all(30 <= data.evaluation["label"][:].count(digit) <= 40 for digit in range(10))


def test_image_folder_with_splits(image_folder, processor):
    data = load_image_data(DataArguments(str(image_folder)))
    assert (len(data.train), len(data.evaluation)) == (12, 6)
    assert data.label_names == ["cat", "dog"]
    sample = ImageClassificationDataset(data.train, "image", "label", processor)[11]
    assert sample["pixel_values"].shape == (3, 8, 8)
    assert sample["labels"].item() == 1


def test_image_folder_without_splits_holds_a_part_out(image_folder):
    data = load_image_data(DataArguments(str(image_folder / "train"), eval_fraction=0.25))
    assert (len(data.train), len(data.evaluation)) == (9, 3)


def test_parquet_folder_with_string_labels_and_limits(tmp_path):
    images = [Image.new("RGB", (8, 8), (10 * index, 0, 0)) for index in range(12)]
    table = {"img": images, "label": ["b", "a", "c"] * 4}
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")})
    for split in ("train", "test"):
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    data = load_image_data(DataArguments(str(tmp_path), max_train_samples=7, max_eval_samples=5))
    assert (len(data.train), len(data.evaluation)) == (7, 5)
    assert data.image_column == "img"
    assert data.label_names == ["a", "b", "c"]
    assert set(data.train["label"][:]) <= {0, 1, 2}


def test_augmentation_depends_on_seed_epoch_and_index_alone(processor):
    data = load_image_data(DataArguments("digits", max_train_samples=20))

    def draw(seed=0, epoch=0):
        dataset = ImageClassificationDataset(data.train, "image", "label", processor, 2, True, seed)
        dataset.set_epoch(epoch)
        torch.rand(3)  # the global random stream does not matter
        return torch.stack([dataset[index]["pixel_values"] for index in range(20)])

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw(), draw(epoch=1))
    assert not torch.equal(draw(), draw(seed=1))
    plain = ImageClassificationDataset(data.train, "image", "label", processor)
    assert torch.equal(plain[3]["pixel_values"], plain[3]["pixel_values"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_name": None}, r"--dataset_name.*digits"),
        ({"dataset_name": "./nowhere"}, r"no folder './nowhere'"),
        ({"image_column": "picture"}, r"no column 'picture'.*image, label"),
        ({"label_column": "class"}, r"no column 'class'.*image, label"),
        ({"image_column": "label"}, r"holds no images.*image \(Image\)"),
        ({"train_split": "training"}, r"no split 'training'.*train, test"),
        ({"eval_split": "dev"}, r"no split 'dev'.*train, test"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        load_image_data(DataArguments(**{"dataset_name": "digits", **arguments}))


def test_empty_folder_is_refused(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no images.*FOLDER/train/CLASS"):
        load_image_data(DataArguments(str(tmp_path)))


def test_unreachable_hub_says_what_to_pass_instead(monkeypatch):
    def fail(*args):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"'user/name'.*no route.*local folder"):
        load_image_data(DataArguments("user/name"))


def test_label_out_of_range_is_named(tmp_path):
    table = {"image": [Image.new("L", (8, 8))] * 3, "label": [0, 1, -1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"Row \d of the \w+ split has the label -1.*0 to 1 \(no, yes\)"):
        load_image_data(DataArguments(str(tmp_path), eval_fraction=0.34))


def test_truncated_image_is_named(image_folder, processor):
    path = image_folder / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    data = load_image_data(DataArguments(str(image_folder)))
    dataset = ImageClassificationDataset(data.train, "image", "label", processor)
    with pytest.raises(InputError, match=r"train/dog/2\.png cannot be read"):
        [dataset[index] for index in range(len(dataset))]
