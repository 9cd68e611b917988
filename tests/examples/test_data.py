"""Loading by name, augmentation, and refusals that say what there is."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from examples.data import __main__ as data_script
from examples.data.__main__ import main
from examples.data.arguments import DataArguments
from examples.data.catalog import BENCHMARKS
from examples.data.images import ImageClassificationDataset, ImagePixelsDataset, decode_image
from examples.data.loading import load_image_data
from examples.data.sort_of_clevr import ANSWERS, SortOfClevr, describe_question
from examples.data.triangle import Triangle
from examples.errors import InputError


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
    sample = ImageClassificationDataset(ImagePixelsDataset(data.train, "image", processor), data.train["label"][:])[11]
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

    def draw(seed=0, epoch=0, cache=False):
        pixels = ImagePixelsDataset(data.train, "image", processor, 2, True, seed, cache)
        pixels.set_epoch(epoch)
        torch.rand(3)  # the global random stream does not matter
        return torch.stack([pixels[index] for index in range(20)])

    assert torch.equal(draw(), draw())
    assert torch.equal(draw(), draw(cache=True))
    assert not torch.equal(draw(), draw(epoch=1))
    assert not torch.equal(draw(), draw(seed=1))
    plain = ImagePixelsDataset(data.train, "image", processor)
    assert torch.equal(plain[3], plain[3])


@pytest.mark.parametrize("cache", [False, True])
def test_pixels_are_those_of_the_processor(image_folder, cache):
    """Several modes and sizes, resized: equal to the last bit."""
    processor = ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.49, 0.48, 0.45], image_std=[0.2, 0.3, 0.4], do_convert_rgb=True
    )
    data = load_image_data(DataArguments(str(image_folder))).train
    pixels = ImagePixelsDataset(data, "image", processor, cache=cache)
    for index in range(len(data)):
        image = decode_image(data[index]["image"], "")
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixels[index], expected)


def test_benchmark_is_found_by_name_and_by_hub_id(monkeypatch):
    asked = []
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["a", "b"])})
    table = {"img": [Image.new("RGB", (4, 4))] * 4, "fine_label": [0, 1, 0, 1]}
    data = datasets.Dataset.from_dict(table, features=features)
    splits = datasets.DatasetDict({"train": data, "test": data})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or splits)
    for name in ("cifar100", "uoft-cs/cifar100"):
        loaded = load_image_data(DataArguments(name))
        assert (loaded.image_column, loaded.label_column) == ("img", "fine_label")
    assert asked == [("uoft-cs/cifar100", None)] * 2


def test_generated_benchmark_is_loaded_by_name():
    data = load_image_data(
        DataArguments("triangle", "matched", generator_seed=5, generator_train_size=6, generator_test_size=4)
    )
    assert (len(data.train), len(data.evaluation)) == (6, 4)
    assert data.label_names == ["equilateral", "random"]
    expected = Triangle.generate("matched", 5, 1, 2)
    assert data.evaluation[2]["label"] == expected["label"]
    assert data.evaluation[2]["image"]["bytes"] == expected["image"]["bytes"]


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_facts_of_a_benchmark_agree_with_each_other(name):
    benchmark = BENCHMARKS[name]
    assert (benchmark.hub_id is None) != (benchmark.builder is None)
    assert benchmark.image_size % benchmark.patch_size == 0
    assert set(benchmark.unconfirmed) <= set(benchmark.published)
    if benchmark.builder is not None:
        assert benchmark.builder.default_sizes == (benchmark.num_train, benchmark.num_test)
        assert {benchmark.image_column, benchmark.label_column} <= set(benchmark.builder.features)
        label = benchmark.builder.features[benchmark.label_column]
        assert getattr(label, "feature", label).num_classes == benchmark.num_classes


@pytest.mark.parametrize("name", ["sort_of_clevr", "triangle", "digits"])
def test_contact_sheet_is_drawn(name, tmp_path, capsys, monkeypatch):
    sizes = [] if name == "digits" else ["--generator_train_size", "9", "--generator_test_size", "2"]
    captions = []
    original = data_script.caption
    monkeypatch.setattr(data_script, "caption", lambda *args: captions.append(original(*args)) or captions[-1])
    main([name, "--preview", str(tmp_path / "deep" / "sheet.png"), "--num_images", "5", *sizes])
    assert "train: " in capsys.readouterr().out
    pixels = np.asarray(Image.open(tmp_path / "deep" / "sheet.png").convert("L"))
    assert min(pixels.shape) > 250
    assert pixels.std() > 10
    assert len(captions) == 5
    if name == "sort_of_clevr":
        row = SortOfClevr.generate("fixed", 0, 0, 0)
        joined = " ".join(captions[0].split())
        assert f"{describe_question(row['questions'][0])} {ANSWERS[row['answers'][0]]}" in joined
        assert f"{describe_question(row['questions'][-1])} {ANSWERS[row['answers'][-1]]}" in joined
    else:
        assert set(captions) <= {"equilateral", "random", *map(str, range(10))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_name": None}, r"--dataset_name.*digits"),
        ({"dataset_name": "./nowhere"}, r"no folder './nowhere'"),
        ({"dataset_name": "cifar"}, r"no benchmark 'cifar'. Known: digits, cifar10, .*sort_of_clevr.*user/name"),
        ({"dataset_name": "sort_of_clevr"}, r"has questions: train on it with `examples.relational_reasoning`"),
        ({"dataset_name": "triangle", "dataset_config_name": "fair"}, r"no variant 'fair'.*original, matched"),
        ({"generator_train_size": 5}, r"'digits' is not generated: use `--max_train_samples`"),
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
    dataset = ImagePixelsDataset(data.train, "image", processor)
    with pytest.raises(InputError, match=r"train/dog/2\.png cannot be read"):
        [dataset[index] for index in range(len(dataset))]
