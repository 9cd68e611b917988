"""Folders mean what they look like, labels are names, and a name means one thing."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from examples.data.arguments import DataArguments
from examples.data.images import ImageClassificationDataset, ImagePixelsDataset
from examples.data.labels import hold_out
from examples.data.loading import load_image_data
from examples.data.questions import load_questions
from examples.errors import InputError


def write_images(folder, names):
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index % 256, 0, 0)).save(path)


def write_parquet(path, labels, feature=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.Value("string")})
    table = {"image": [Image.new("RGB", (4, 4))] * len(labels), "label": labels}
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)


def load(folder, **arguments):
    return load_image_data(DataArguments(str(folder), **arguments))


def list_paths(data):
    return [row["path"] for row in data["image"]]


def spread(pattern, classes=("cat", "dog"), number=4):
    """Names of some images of each class."""
    return [pattern.format(label, index) for label in classes for index in range(number)]


@pytest.mark.parametrize(
    "names",
    [
        [*spread("{}/photo_{}.png"), "cat/train_0.png", "dog/test_0.png", "dog/validation-1.png"],
        spread("{}/2023/{}.png") + spread("{}/{}.png"),
        [*spread("{}/{}.png", ["cat"]), *spread("{}/deep/deeper/{}.png", ["dog"])],
        spread("data/{}/{}.png"),
        spread("{}/{}.JPG"),
    ],
)
def test_every_image_of_a_class_folder_is_used(names, tmp_path):
    root = tmp_path / "[raw] photos, train *"
    write_images(root, names)
    data = load(root)
    assert data.label_names == ["cat", "dog"]
    assert sorted(list_paths(data.train) + list_paths(data.evaluation)) == sorted(str(root / name) for name in names)
    for part in (data.train, data.evaluation):
        assert all(("/dog/" in path) == bool(label) for path, label in zip(list_paths(part), part["label"]))


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("__x__", "cat"), ("Test", "exam", "validation")])
def test_classes_may_be_called_anything(classes, tmp_path):
    write_images(tmp_path, spread("{}/{}.png", classes))
    assert load(tmp_path).label_names == sorted(classes)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "TEST"), ("train", "val"), ("training", "testing"), ("TRAIN", "Valid")],
)
def test_top_level_folders_are_splits_in_any_capitalisation(train, test, tmp_path):
    write_images(tmp_path, spread(f"{train}/{{}}/{{}}.png") + spread(f"{test}/{{}}/{{}}.png", number=2))
    data = load(tmp_path)
    assert (len(data.train), len(data.evaluation)) == (8, 4)
    assert all(f"/{test}/" in path for path in list_paths(data.evaluation))


def test_val_is_another_name_of_validation(tmp_path):
    write_images(tmp_path, spread("train/{}/{}.png") + spread("test/{}/{}.png") + spread("val/{}/{}.png", number=3))
    assert len(load(tmp_path, eval_split="val").evaluation) == 6
    assert len(load(tmp_path, eval_split="validation").evaluation) == 6
    assert len(load(tmp_path).evaluation) == 8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (spread("train/{}/{}.png") + spread("Train/{}/{}.png"), "both 'Train' and 'train' mean the train split"),
        (spread("val/{}/{}.png") + spread("valid/{}/{}.png"), "both 'val' and 'valid' mean the validation split"),
        (spread("train/{}/{}.png") + spread("cat/{}/{}.png"), "holds the split train beside the folders cat"),
        (spread("{}/train/{}.png") + spread("{}/test/{}.png"), "lie inside the classes"),
        (spread("images/{1}.png"), "only the class 'images'"),
        (spread("{}_{}.png"), "no classes"),
        (spread("train/{}_{}.png") + spread("test/{}_{}.png"), "no classes"),
        (spread("dataset/train/{}/{}.png") + spread("dataset/test/{}/{}.png"), "only the class 'dataset'"),
        (spread("test/{}/{}.png"), "no split 'train'"),
    ],
)
def test_folder_that_could_mean_two_things_is_refused(names, message, tmp_path):
    write_images(tmp_path, names)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("table", ["metadata.csv", "train.csv", "labels.json"])
def test_images_with_a_table_of_labels_are_refused(table, tmp_path):
    write_images(tmp_path, spread("{}_{}.png"))
    (tmp_path / table).write_text("file_name,label\n")
    with pytest.raises(InputError, match="Labels in a table are not read"):
        load(tmp_path)


def test_what_is_left_out_is_said(tmp_path, capsys):
    names = [".hidden/0.png", "cat/._0.png", "__MACOSX/cat/0.png", "overview.png"]
    write_images(tmp_path, spread("{}/{}.png") + names)
    (tmp_path / "metadata.csv").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "owl").mkdir()
    data = load(tmp_path)
    assert len(data.train) + len(data.evaluation) == 8
    printed = capsys.readouterr().out
    assert "3 hidden: .hidden/0.png, __MACOSX/cat/0.png, cat/._0.png." in printed
    assert "without an image: owl." in printed
    assert "2 of other kinds: 1 .csv, 1 .txt." in printed
    assert "1 in no folder of a class: overview.png." in printed


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001", "test-00000-of-00001"),
        ("data/train-00000-of-00001", "data/validation-00000-of-00001"),
        ("Train", "Val"),
        ("default/train/0000", "default/test/0000"),
        ("pets-train", "pets-test"),
        ("train_0", "test_0"),
    ],
)
def test_parquet_files_are_split_by_their_names(train, test, tmp_path):
    root = tmp_path / "[pets]"
    write_parquet(root / f"{train}.parquet", ["a", "b"] * 3)
    write_parquet(root / f"{test}.parquet", ["b", "a"])
    data = load(root)
    assert data.label_names == ["a", "b"]
    assert data.train["label"][:] == [0, 1] * 3
    assert data.evaluation["label"][:] == [1, 0]


def test_parquet_configurations_are_chosen_by_name(tmp_path):
    for name, number in (("small", 2), ("large", 4)):
        for split in ("train", "test"):
            write_parquet(tmp_path / name / f"{split}.parquet", ["a", "b"] * number)
    with pytest.raises(InputError, match=r"parquet files in 'large', 'small': say which with `--dataset_config_name`"):
        load(tmp_path)
    assert len(load(tmp_path, dataset_config_name="large").train) == 8


def test_parquet_files_of_one_split_share_their_classes(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [0, 1], datasets.ClassLabel(names=["cat", "dog"]))
    write_parquet(tmp_path / "train-1.parquet", [0, 1], datasets.ClassLabel(names=["dog", "cat"]))
    with pytest.raises(InputError, match=r"train-0.*train-1.* of the train split have different columns or classes"):
        load(tmp_path)


@pytest.mark.parametrize("kept", [0, 20, 400])
def test_broken_parquet_file_is_one_line(kept, tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet(path, ["a", "b"] * 50)
    content = path.read_bytes()
    path.write_bytes(content[:kept] if kept < 400 else content[:4] + bytes(kept) + content[4 + kept :])
    with pytest.raises(InputError, match=r"cannot be read"):
        load(tmp_path)


def test_labels_mean_the_same_class_in_every_split(tmp_path):
    """The tables of the splits differ in their order, and one split has names where the other has numbers of them."""
    write_parquet(tmp_path / "train.parquet", [0, 1, 2], datasets.ClassLabel(names=["cat", "dog", "owl"]))
    write_parquet(tmp_path / "test.parquet", [0, 1, 1], datasets.ClassLabel(names=["owl", "cat"]))
    write_parquet(tmp_path / "validation.parquet", ["dog", "owl"])
    data = load(tmp_path)
    assert [data.label_names[label] for label in data.evaluation["label"]] == ["owl", "cat", "cat"]
    data = load(tmp_path, eval_split="validation")
    assert [data.label_names[label] for label in data.evaluation["label"]] == ["dog", "owl"]


def test_classes_of_folders_are_matched_by_name(tmp_path):
    write_images(tmp_path, spread("train/{}/{}.png", ["cat", "dog", "owl"]) + spread("test/{}/{}.png", ["owl"]))
    data = load(tmp_path)
    assert {data.label_names[label] for label in data.evaluation["label"]} == {"owl"}


def test_integer_labels_are_sorted_as_numbers(tmp_path):
    write_parquet(tmp_path / "train.parquet", [10, 9, 1], datasets.Value("int64"))
    write_parquet(tmp_path / "test.parquet", [9, 10], datasets.Value("int64"))
    data = load(tmp_path)
    assert data.label_names == ["1", "9", "10"]
    assert data.evaluation["label"][:] == [1, 2]


def test_minus_one_beside_one_is_a_class(tmp_path):
    write_parquet(tmp_path / "train.parquet", [-1, 1] * 2, datasets.Value("int64"))
    write_parquet(tmp_path / "test.parquet", [1, -1], datasets.Value("int64"))
    assert load(tmp_path).label_names == ["-1", "1"]


INTEGER, TEXT, NAMED = datasets.Value("int64"), datasets.Value("string"), datasets.ClassLabel(names=["no", "yes"])


@pytest.mark.parametrize(
    ("feature", "train", "test", "message"),
    [
        (
            INTEGER,
            [0, 1, 3],
            [0, 2, 2],
            r"^Rows 1, 2 of the evaluation split have the label 2 .*training does not",
        ),
        (INTEGER, [0, 1, 3], [-1, -1], r"^Rows 0, 1 of the evaluation split have the label -1 .*there is none"),
        (INTEGER, [0, -1, 3], [0], r"^Row 1 of the training split has the label -1 .*there is none"),
        (
            TEXT,
            ["a", None, "b"],
            ["a"],
            r"^Row 1 of the training split has the label None .*0 to 1 \(a, b\)",
        ),
        (TEXT, ["a", "b"], ["a", ""], r"^Row 1 of the evaluation split has the label '' .*there is none"),
        (TEXT, ["a", "b"], ["c"] * 9, r"^Rows 0, 1, 2, 3, 4 and 4 more of the evaluation split have the label 'c'"),
        (NAMED, [0, 1], [-1, 0, -1], r"^Rows 0, 2 of the evaluation split have the label -1 .*there is none"),
        (NAMED, [0, 1, None], [0], r"^Row 2 of the training split has the label None"),
        (datasets.Value("float64"), [0.5, 1.0], [0.5], r"of type float, but classes must be integers or strings"),
    ],
)
def test_labels_without_a_class_are_refused(feature, train, test, message, tmp_path):
    write_parquet(tmp_path / "train.parquet", train, feature)
    write_parquet(tmp_path / "test.parquet", test, feature)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_split_without_the_columns_is_refused(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    features = datasets.Features({"image": datasets.Image()})
    data = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4))]}, features=features)
    data.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(InputError, match="evaluation split lacks label; it has image"):
        load(tmp_path)


@pytest.mark.parametrize("test_images", [spread("test/{}/{}.png", ["unknown"]), spread("test/{}_{}.png")])
def test_unlabelled_test_images_give_way_to_validation(test_images, tmp_path, capsys):
    write_images(tmp_path, spread("train/{}/{}.png") + spread("validation/{}/{}.png", number=3) + test_images)
    data = load(tmp_path)
    assert all("/validation/" in path for path in list_paths(data.evaluation))
    assert "left out" in capsys.readouterr().out.lower()


def test_unlabelled_test_images_alone_are_refused(tmp_path):
    write_images(tmp_path, spread("train/{}/{}.png") + spread("test/{}/{}.png", ["unknown"]))
    with pytest.raises(InputError, match=r"evaluation split have the label 'unknown' .*training does not have"):
        load(tmp_path)


def test_held_out_part_has_a_share_of_every_class(tmp_path, capsys):
    write_images(tmp_path, [*spread("{}/{}.png", ["cat"], 40), *spread("{}/{}.png", ["dog"], 3), "owl/0.png"])
    data = load(tmp_path)
    assert data.label_names == ["cat", "dog", "owl"]
    assert [data.evaluation["label"][:].count(label) for label in range(3)] == [4, 1, 0]
    assert [data.train["label"][:].count(label) for label in range(3)] == [36, 2, 1]
    printed = capsys.readouterr().out
    assert "Warning: classes with one image are not evaluated: owl." in printed
    assert "Held out to evaluate on: 5 of 44 training images (`--eval_fraction`)." in printed
    assert list_paths(load(tmp_path).evaluation) == list_paths(data.evaluation)
    # Drawn at random, not the first ones.
    assert [int(path.split("/")[-1][:-4]) for path in list_paths(data.evaluation)] != [0, 1, 2, 3, 0]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.5])
def test_held_out_part_is_as_large_as_asked(fraction):
    labels = np.random.default_rng(0).integers(0, 10, 400).tolist()
    data = datasets.Dataset.from_dict({"label": labels})
    train, held_out = hold_out(data, "label", [str(label) for label in range(10)], fraction)
    assert len(held_out) == round(400 * fraction)
    assert sorted(train["label"][:] + held_out["label"][:]) == sorted(labels)
    shares = [held_out["label"][:].count(label) / labels.count(label) for label in range(10)]
    assert max(abs(share - fraction) for share in shares) < 0.04


def test_nothing_to_hold_out_is_refused(tmp_path):
    write_images(tmp_path, ["cat/0.png", "dog/0.png"])
    with pytest.raises(InputError, match="no class has two images"):
        load(tmp_path)


def test_classes_that_training_never_shows_are_said(tmp_path, capsys):
    write_parquet(tmp_path / "train.parquet", [0, 0, 1], datasets.ClassLabel(names=["a", "b", "c"]))
    write_parquet(tmp_path / "test.parquet", [0, 2], datasets.ClassLabel(names=["a", "b", "c"]))
    load(tmp_path)
    assert "Warning: no training image shows these classes, which are evaluated: c." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["digits", "triangle", "cifar10", "uoft-cs/cifar10"])
def test_folder_that_is_named_as_a_known_data_set_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / name, spread("{}/{}.png"))
    with pytest.raises(InputError, match=rf"'{name}' is both .*Pass `--dataset_name \./{name}` for the folder"):
        load(name)
    assert load(f"./{name}").label_names == ["cat", "dog"]


def test_folder_of_the_name_without_data_is_no_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "results.json").touch()
    assert len(load("digits").train) == 1437


def test_held_out_part_is_refused_for_questions():
    with pytest.raises(InputError, match="`--eval_fraction` has no effect: questions are evaluated on a split"):
        load_questions(DataArguments("sort_of_clevr", eval_fraction=0.3))


def test_question_split_without_answers_gives_way_to_another(tmp_path, capsys):
    whole = load_questions(DataArguments("sort_of_clevr", generator_train_size=6, generator_test_size=4))
    (tmp_path / "data").mkdir()
    for split, data in {
        "train": whole.train,
        "validation": whole.evaluation,
        "test": whole.train.remove_columns("answers"),
    }.items():
        data.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    data = load_questions(DataArguments(str(tmp_path)))
    assert data.evaluation["answers"][:] == whole.evaluation["answers"][:]
    assert "The test split has no answers: it is left out." in capsys.readouterr().out
    # Alone it is refused, and so is whoever asks for it.
    with pytest.raises(InputError, match="lacks the columns answers"):
        load_questions(DataArguments(str(tmp_path), eval_split="test"))
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="lacks the columns answers"):
        load_questions(DataArguments(str(tmp_path)))


def test_a_part_of_the_training_images_is_held_out_with_all_their_questions(capsys):
    given = DataArguments("sort_of_clevr", generator_train_size=20, generator_test_size=4)
    whole = load_questions(given)
    held_out = replace(given, hold_out=True, eval_fraction=0.25)
    data, again = load_questions(held_out), load_questions(held_out)
    assert (len(data.train), len(data.evaluation)) == (15, 5)
    assert "Held out to evaluate on: 5 of 20 training images (`--eval_fraction`)." in capsys.readouterr().out
    sorted_rows = lambda data: sorted(data["image"][:], key=lambda image: image["bytes"])  # noqa: E731
    both = datasets.concatenate_datasets([data.train, data.evaluation])
    assert sorted_rows(both) == sorted_rows(whole.train)
    assert data.evaluation["questions"][:] == again.evaluation["questions"][:]
    with pytest.raises(InputError, match=r"No 0.01 of 20 images can be held out \(`--eval_fraction`\)"):
        load_questions(replace(held_out, eval_fraction=0.01))


def test_a_part_is_held_out_though_there_is_a_test_split(image_folder):
    whole = load_image_data(DataArguments(str(image_folder)))
    data = load_image_data(DataArguments(str(image_folder), hold_out=True, eval_fraction=0.25))
    paths = lambda data: {image["path"] for image in data["image"][:]}  # noqa: E731
    assert (len(data.train), len(data.evaluation)) == (9, 3)
    assert paths(data.train) | paths(data.evaluation) == paths(whole.train)
    assert not paths(data.evaluation) & paths(whole.evaluation)


@pytest.mark.parametrize("given", [{}, {"eval_split": "test"}, {"eval_split": "train"}, {"hold_out": True}])
@pytest.mark.parametrize("name", ["sort_of_clevr", "triangle"])
def test_evaluation_has_the_same_rows_whether_or_not_there_is_something_to_train_on(name, given):
    load = load_questions if name == "sort_of_clevr" else load_image_data
    arguments = DataArguments(name, generator_train_size=20, generator_test_size=4, **given)
    alone, whole = load(arguments, trains=False), load(arguments)
    assert alone.evaluation[:] == whole.evaluation[:] and len(whole.evaluation) > 1
    assert alone.label_names == whole.label_names
    # What is trained on is generated where a part of it is evaluated, and not otherwise.
    assert len(alone.train) == (4 if given in ({}, {"eval_split": "test"}) else len(whole.train))


def test_questions_of_a_test_split_alone_are_enough(tmp_path):
    whole = load_questions(DataArguments("sort_of_clevr", generator_train_size=20, generator_test_size=4))
    (tmp_path / "test").mkdir()
    whole.evaluation.to_parquet(tmp_path / "test" / "0.parquet")
    data = load_questions(DataArguments(str(tmp_path)), trains=False)
    assert data.evaluation["answers"][:] == whole.evaluation["answers"][:]
    with pytest.raises(InputError, match=r"no split 'train' \(`--train_split`\)"):
        load_questions(DataArguments(str(tmp_path)))


def test_flags_for_images_are_refused_for_questions():
    with pytest.raises(InputError, match="are for image classification"):
        load_questions(DataArguments("sort_of_clevr", check_images=True))


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
