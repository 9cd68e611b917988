"""Odd files, labels and rows: they mean what they look like, or end in one line that names them."""

import datetime
import json
import os
import unicodedata

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from examples.data.arguments import DataArguments
from examples.data.generated import encode_png
from examples.data.images import ImagePixelsDataset
from examples.data.loading import load_image_data
from examples.errors import InputError


def write_images(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, format="png")


def spread(pattern, classes=("cat", "dog"), number=4):
    return [pattern.format(label, index) for label in classes for index in range(number)]


def write_parquet(path, labels, feature=None, images=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.Value("string")})
    table = {"image": images or [Image.new("RGB", (4, 4))] * len(labels), "label": labels}
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)


def write_raw_parquet(path, images, labels, metadata=None):
    """Images as given, also those that the library would not write."""
    column = pyarrow.array(images, type=pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    table = pyarrow.table({"image": column, "label": labels})
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


def make_raw_images(*first):
    image = encode_png(torch.zeros(4, 4, 3, dtype=torch.uint8).numpy())
    return [*first, *[image] * (6 - len(first))]


def load(folder, **arguments):
    return load_image_data(DataArguments(str(folder), **arguments))


def refuse(folder, **arguments):
    """The one line that a folder is refused with."""
    with pytest.raises(InputError) as caught:
        load(folder, **arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def read_all(data, processor):
    for part in (data.train, data.evaluation):
        pixels = ImagePixelsDataset(part, data.image_column, processor)
        for index in range(len(pixels)):
            pixels[index]


# Files outside the folder.


@pytest.fixture
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    write_images(folder, ["secret.png", *spread("owl/{1}.png", ["owl"])])
    return folder


@pytest.mark.parametrize(("link", "target"), [("cat/9.png", "secret.png"), ("owl", "owl"), ("cat/deep", "owl")])
def test_link_out_of_the_folder_is_refused_unless_allowed(link, target, outside, tmp_path):
    write_images(tmp_path, spread("{}/{}.png"))
    (tmp_path / link).symlink_to(outside / target)
    assert f"lead there: {link}. Copy" in refuse(tmp_path)
    data = load(tmp_path, allow_outside_files=True)
    assert len(data.train) + len(data.evaluation) > 8


def test_link_to_a_folder_whose_name_begins_like_the_data_folder_is_refused(tmp_path):
    write_images(tmp_path / "pets", spread("{}/{}.png"))
    write_images(tmp_path / "pets-of-others", ["secret.png"])
    (tmp_path / "pets" / "cat" / "9.png").symlink_to(tmp_path / "pets-of-others" / "secret.png")
    assert "lead there: cat/9.png. Copy" in refuse(tmp_path / "pets")


def test_links_in_a_circle_and_paths_that_no_file_can_have_are_images_that_cannot_be_read(tmp_path, processor):
    write_images(tmp_path / "folder", spread("{}/{}.png"))
    (tmp_path / "folder" / "cat" / "9.png").symlink_to(tmp_path / "folder" / "cat" / "9.png")
    (tmp_path / "table").mkdir()
    images = make_raw_images({"bytes": None, "path": "a\0b.png"})
    write_raw_parquet(tmp_path / "table" / "train.parquet", images, ["a", "b"] * 3)
    for folder in ("folder", "table"):
        data = load(tmp_path / folder)
        with pytest.raises(InputError, match="cannot be read") as caught:
            read_all(data, processor)
        assert "\n" not in str(caught.value)


def test_links_within_the_folder_and_to_it_are_followed(tmp_path):
    folder = tmp_path / "real"
    write_images(folder, spread("{}/{}.png"))
    (folder / "cat" / "9.png").symlink_to(folder / "dog" / "1.png")
    (folder / "cat" / "loop").symlink_to(folder)
    (tmp_path / "link").symlink_to(folder)
    data = load(tmp_path / "link")
    assert len(data.train) + len(data.evaluation) == 9


def test_link_of_a_hidden_or_unused_file_does_not_matter(outside, tmp_path):
    write_images(tmp_path, spread("{}/{}.png"))
    (tmp_path / ".cache").symlink_to(outside)
    (tmp_path / "notes.txt").symlink_to(outside / "secret.png")
    data = load(tmp_path)
    assert len(data.train) + len(data.evaluation) == 8


def test_snapshot_in_the_cache_of_the_hub_is_opened(tmp_path):
    repository = tmp_path / "datasets--user--pets"
    write_parquet(repository / "train.parquet", ["a", "b"] * 3)
    (repository / "blobs").mkdir()
    (repository / "train.parquet").rename(repository / "blobs" / "0123")
    folder = repository / "snapshots" / "abcdef"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-00000-of-00001.parquet").symlink_to("../../../blobs/0123")
    assert len(load(folder).train) == 4


@pytest.mark.parametrize("is_absolute", [False, True])
def test_path_in_a_table_that_leaves_the_folder_is_refused_unless_allowed(is_absolute, outside, tmp_path, processor):
    path = str(outside / "secret.png") if is_absolute else os.path.relpath(outside / "secret.png", tmp_path)
    write_raw_parquet(tmp_path / "train.parquet", make_raw_images({"bytes": None, "path": path}), ["a", "b"] * 3)
    assert f"lead there: row 0 of the train split ({path}). Copy" in refuse(tmp_path)
    read_all(load(tmp_path, allow_outside_files=True), processor)


def test_path_in_a_table_through_a_link_out_of_the_folder_is_refused(outside, tmp_path):
    (tmp_path / "inner").symlink_to(outside)
    images = make_raw_images({"bytes": None, "path": "inner/secret.png"})
    write_raw_parquet(tmp_path / "train.parquet", images, ["a", "b"] * 3)
    assert "lead there: inner" in refuse(tmp_path)


def test_path_in_a_table_counts_from_the_folder(tmp_path, processor):
    write_images(tmp_path, ["images/0.png"])
    images = make_raw_images({"bytes": None, "path": "images/0.png"})
    write_raw_parquet(tmp_path / "train.parquet", images, ["a", "b"] * 3)
    data = load(tmp_path)
    read_all(data, processor)
    paths = {row["path"] for part in (data.train, data.evaluation) for row in part["image"]}
    assert str(tmp_path / "images/0.png") in paths


def test_path_of_a_hub_data_set_out_of_the_cache_is_refused(outside, monkeypatch):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = {"image": [str(outside / "secret.png")] * 4, "label": ["a", "b"] * 2}
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict(table, features=features)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: splits)
    assert "row 0 of the train split" in refuse("user/pets")
    assert len(load("user/pets", allow_outside_files=True).train) == 2


# Names of files and folders.


@pytest.mark.parametrize("name", [b"cat/\xff.png", b"\xe9t\xe9/0.png"])
def test_name_that_is_no_text_is_one_line(name, tmp_path):
    write_images(tmp_path, spread("{}/{}.png"))
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass
    assert "not valid UTF-8" in refuse(tmp_path)
    assert refuse(tmp_path).encode()


def test_hidden_name_that_is_no_text_is_printed(tmp_path, capsys):
    write_images(tmp_path, spread("{}/{}.png"))
    with open(os.path.join(os.fsencode(tmp_path), b".\xff"), "wb"):
        pass
    load(tmp_path)
    assert "1 hidden: .\\udcff." in capsys.readouterr().out


def test_folder_whose_own_name_is_no_text_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    try:
        write_images(folder, spread("{}/{}.png"))
    except OSError:
        pytest.skip("the file system takes no such name")
    assert "not valid UTF-8" in refuse(folder)


def test_class_is_the_same_however_its_accents_are_written(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    write_images(tmp_path, spread("train/{}/{}.png", [composed, "dog"]))
    write_images(tmp_path, spread("test/{}/{}.png", [decomposed]))
    data = load(tmp_path)
    assert data.label_names == [composed, "dog"]
    assert data.evaluation["label"][:] == [0] * 4


def test_line_break_in_a_class_is_printed_on_one_line(tmp_path):
    write_images(tmp_path, spread("train/{}/{}.png", ["a\nb", "c"]) + spread("test/{}/{}.png", ["d"]))
    assert r"(a\nb, c)" in refuse(tmp_path)


def test_files_without_an_extension_are_counted(tmp_path, capsys):
    write_images(tmp_path, spread("{}/{}.png"))
    for index in range(20):
        (tmp_path / f"file{index}").touch()
    load(tmp_path)
    assert "20 of other kinds: 20 without an extension." in capsys.readouterr().out


def test_split_folders_inside_some_classes_are_said(tmp_path, capsys):
    write_images(tmp_path, [*spread("{}/train/{}.png"), "dog/other/0.png"])
    load(tmp_path)
    assert "the folders train inside a class are no splits" in capsys.readouterr().out


def test_file_instead_of_a_folder_is_said(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    assert "is a file: `--dataset_name` takes the folder" in refuse(tmp_path / "train.parquet")


def test_folder_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    write_images(tmp_path, spread("{}/{}.png"))
    scan = os.scandir

    def fail(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    assert "dog cannot be opened: Permission denied" in refuse(tmp_path)


def test_split_flags_are_taken_in_any_capitalisation(tmp_path):
    write_images(tmp_path, spread("Train/{}/{}.png") + spread("VAL/{}/{}.png", number=2))
    data = load(tmp_path, train_split="Train", eval_split="VAL")
    assert (len(data.train), len(data.evaluation)) == (8, 4)


@pytest.mark.parametrize(("name", "is_data"), [("digits/cat/0.png", True), ("digits/example.png", False)])
def test_known_name_of_a_folder_here_is_never_silent(name, is_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, [name])
    if is_data:
        assert "'digits' is both a known data set and a folder here" in refuse("digits")
    else:
        assert len(load("digits", max_train_samples=5).train) == 5
        assert "The folder 'digits' here holds no images" in capsys.readouterr().out


# Images that are none.


@pytest.mark.parametrize(
    ("image", "num_workers", "message"),
    [
        (None, 1, "The image row 0 of column 'image' cannot be read (there is none)."),
        ({"bytes": None, "path": None}, 0, "The image row 0 of column 'image' cannot be read (there is none)."),
        ({"bytes": b"", "path": None}, 0, "The image row 0 of column 'image' cannot be read (cannot identify image "),
        ({"bytes": b"text", "path": "a\nb"}, 0, r"The image a\nb (row 0 of column 'image') cannot be read"),
    ],
)
def test_row_without_an_image_is_one_line(image, num_workers, message, tmp_path, processor):
    """The row is that of the file, whichever part it was drawn into."""
    write_raw_parquet(tmp_path / "train.parquet", make_raw_images(image), ["a", "b"] * 3)
    data = load(tmp_path, max_train_samples=10)
    loaders = [
        torch.utils.data.DataLoader(ImagePixelsDataset(part, "image", processor), num_workers=num_workers)
        for part in (data.train, data.evaluation)
    ]
    with pytest.raises(InputError) as caught:
        for loader in loaders:
            list(loader)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_check_names_the_row_and_the_split(tmp_path, capsys):
    write_raw_parquet(tmp_path / "train.parquet", make_raw_images(None), ["a", "b"] * 3)
    write_raw_parquet(tmp_path / "test.parquet", [*make_raw_images()[:5], None], ["a", "b"] * 3)
    assert refuse(tmp_path, check_images=True).startswith("2 of 12 images cannot be read")
    printed = capsys.readouterr().out
    assert "The image row 0 of the training split cannot be read" in printed
    assert "The image row 5 of the evaluation split cannot be read" in printed
    data = load(tmp_path, skip_bad_images=True)
    assert (len(data.train), len(data.evaluation)) == (5, 5)


def test_nothing_left_to_train_on_is_said(tmp_path):
    write_raw_parquet(tmp_path / "train.parquet", [None] * 4, ["a", "b"] * 2)
    assert "The training split of" in refuse(tmp_path, skip_bad_images=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_and_broken_link_are_listed_and_never_waited_for(tmp_path, capsys):
    write_images(tmp_path, spread("{}/{}.png"))
    os.mkfifo(tmp_path / "cat" / "9.png")
    (tmp_path / "dog" / "9.png").symlink_to(tmp_path / "nowhere.png")
    assert refuse(tmp_path, check_images=True).startswith("2 of 10 images")
    assert "cat/9.png cannot be read (it is no file)" in capsys.readouterr().out


def test_image_columns_need_no_metadata(tmp_path, processor):
    write_raw_parquet(tmp_path / "train.parquet", make_raw_images(), [0, 1] * 3)
    data = load(tmp_path)
    read_all(data, processor)
    assert data.label_names == ["0", "1"]


# Parquet files.


def test_several_splits_and_shards_are_read_as_the_hub_lays_them(tmp_path):
    for index in range(3):
        write_parquet(tmp_path / f"data/train-0000{index}-of-00003.parquet", ["a", "b"] * (index + 1))
    for index in range(2):
        write_parquet(tmp_path / f"data/validation-0000{index}-of-00002-0a1b.parquet", ["b"])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", ["b", "a", "b"])
    data = load(tmp_path)
    assert (len(data.train), data.evaluation["label"][:]) == (12, [1, 0, 1])
    assert len(load(tmp_path, eval_split="validation").evaluation) == 2


@pytest.mark.parametrize(("kept", "missing"), [((0, 2), "1"), ((2,), "0, 1")])
def test_missing_shard_is_refused(kept, missing, tmp_path):
    for index in kept:
        write_parquet(tmp_path / f"train-0000{index}-of-00003.parquet", ["a", "b"])
    assert f"has {len(kept)} of its 3 files; missing are those with the numbers {missing}." in refuse(tmp_path)


def test_numbered_files_are_the_training_split(tmp_path):
    for index in range(2):
        write_parquet(tmp_path / f"000{index}.parquet", ["a", "b"] * 3)
    data = load(tmp_path)
    assert len(data.train) + len(data.evaluation) == 12


@pytest.mark.parametrize(
    ("splits", "message"),
    [({"train": []}, "The training split"), ({"train": ["a", "b"], "test": []}, "The evaluation split")],
)
def test_file_without_rows_is_an_empty_split(splits, message, tmp_path):
    for split, labels in splits.items():
        write_parquet(tmp_path / f"{split}.parquet", labels)
    assert refuse(tmp_path).startswith(message)
    assert refuse(tmp_path).endswith("is empty.")


def test_broken_file_among_several_is_named(tmp_path):
    for index in range(2):
        write_parquet(tmp_path / f"train-{index}.parquet", ["a", "b"] * 50)
    content = (tmp_path / "train-1.parquet").read_bytes()
    (tmp_path / "train-1.parquet").write_bytes(content[:4] + bytes(400) + content[404:])
    assert "train-1.parquet' cannot be read (" in refuse(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    ["{broken", json.dumps({"info": {"features": {"image": {"_type": "Nope"}, "label": 3}}}), json.dumps({"info": 3})],
)
def test_broken_metadata_of_a_file_are_one_line(metadata, tmp_path):
    write_raw_parquet(tmp_path / "train.parquet", make_raw_images(), ["a", "b"] * 3, {"huggingface": metadata})
    assert "train.parquet' cannot be read (" in refuse(tmp_path)


# Labels.


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0.0, float("nan"), 1.0, 1.0], "float64", "Row 1 of the training split has labels such as nan in column"),
        ([0.0, 1.0, 2.0, 1.0], "float32", "Rows 0, 1, 2, 3 of the training split have labels such as 0.0 in column"),
        ([datetime.date(2020, 1, 2), None], "date32", "Row 0 of the training split has labels such as 2020-01-02"),
        ([datetime.datetime(2020, 1, 2)] * 2, "timestamp[s]", "labels such as 2020-01-02 00:00:00 in column"),
        ([b"a", b"b"], "binary", "of type bytes, but classes must be integers or strings"),
        ([None, None], "string", "Rows 0, 1 of the training split have the label None"),
        ([True, False, None], "bool", "Row 2 of the training split has the label None"),
        (["a", "a", "a"], "string", "has one class (a): two are needed"),
        (["a", None, "", "b"], "string", "Rows 1, 2 of the training split have the label None in column 'label'"),
    ],
)
def test_labels_that_are_no_classes_are_one_line(labels, feature, message, tmp_path):
    write_parquet(tmp_path / "train.parquet", labels, datasets.Value(feature))
    assert message in refuse(tmp_path)


def test_truth_values_are_two_classes(tmp_path):
    write_parquet(tmp_path / "train.parquet", [True, False] * 3, datasets.Value("bool"))
    write_parquet(tmp_path / "test.parquet", [False, True], datasets.Value("bool"))
    data = load(tmp_path)
    assert data.label_names == ["False", "True"]
    assert (data.train["label"][:], data.evaluation["label"][:]) == ([1, 0] * 3, [0, 1])


def test_numbers_and_their_digits_are_the_same_classes(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["10", "9", "1"])
    write_parquet(tmp_path / "test.parquet", [9, 10, 1], datasets.Value("int32"))
    data = load(tmp_path)
    assert data.label_names == ["1", "10", "9"]
    assert data.evaluation["label"][:] == [2, 1, 0]


def test_rows_with_other_unknown_labels_are_counted(tmp_path):
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    write_parquet(tmp_path / "test.parquet", ["a", "y", "z", "y"])
    message = refuse(tmp_path)
    assert "Rows 1, 3 of the evaluation split have the label 'y'" in message
    assert "(and 1 more with other labels)" in message


def test_class_with_one_training_image_is_said_beside_a_test_split(tmp_path, capsys):
    write_images(tmp_path, [*spread("train/{}/{}.png"), "train/owl/0.png", *spread("test/{}/{}.png", ["owl", "cat"])])
    load(tmp_path)
    assert "Warning: classes with one training image: owl." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_train_samples": 0}, "`--max_train_samples` must be at least 1, but got 0"),
        ({"max_eval_samples": -1}, "`--max_eval_samples` must be at least 1, but got -1"),
        ({"crop_padding": -1}, "`--crop_padding` must be at least 0, but got -1"),
        ({"eval_fraction": 1.0}, "`--eval_fraction` must be between 0 and 1, but got 1.0"),
        ({"hold_out": True, "eval_split": "test"}, "Pass one of `--hold_out` and `--eval_split`"),
        ({"hold_out": True, "streaming": True}, "`--hold_out` has no effect with `--streaming`"),
    ],
)
def test_numbers_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        DataArguments("digits", **arguments)


@pytest.mark.parametrize("names", [("train_set", "test_set"), ("Training images", "Validation images")])
def test_folders_named_much_like_splits_are_refused(names, tmp_path):
    for name in names:
        write_images(tmp_path, spread(name + "/{}/{}.png"))
    with pytest.raises(InputError, match=r"look like splits.*Rename them"):
        load(tmp_path)


def test_classes_with_split_words_in_their_names_are_classes(tmp_path):
    write_images(tmp_path, spread("{}/indoor/{}.png", ["train station", "test tube"]))
    write_images(tmp_path, spread("{}/{}.png", ["train station", "test tube"]))
    assert load(tmp_path).label_names == ["test tube", "train station"]


def test_class_whose_images_are_all_broken_is_said(tmp_path, capsys):
    write_images(tmp_path, spread("{}/{}.png", ["cat", "dog"]))
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "0.png").write_bytes(b"")
    load(tmp_path, skip_bad_images=True)
    assert "Warning: no training image of these classes can be read: owl." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question_types": ["binary"]}, "`--question_types` has no effect on images without questions"),
        ({"group_questions": True}, "`--group_questions` has no effect on images without questions"),
        ({"augment_questions": True}, "`--augment_questions` has no effect on images without questions"),
        ({"redraw_questions": [1, 2, 3]}, "`--redraw_questions` has no effect on images without questions"),
        ({"generator_seed": 1}, "`--generator_seed` has no effect: 'digits' is not generated"),
        ({"dataset_config_name": "fixed"}, "`--dataset_config_name` has no effect: 'digits' has no variants"),
        ({"eval_fraction": 0.5}, "`--eval_fraction` has no effect: 'digits' has a split to evaluate on"),
        ({"dataset_name": ""}, "`--dataset_name` is missing"),
    ],
)
def test_arguments_without_effect_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        load_image_data(DataArguments(**{"dataset_name": "digits", **arguments}))
