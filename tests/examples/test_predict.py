"""Classifying a folder of images: every file has a line, and known labels give an accuracy and a picture."""

import csv
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from examples import predict
from examples.errors import InputError
from examples.visualization.fonts import use_all_fonts
from modeling_ait import AiTForImageClassification


@pytest.fixture
def checkpoint(make_model, tmp_path):
    """A tiny classifier of three classes with random weights."""
    model = make_model(image_size=8, id2label={0: "owl", 1: "cat", 2: "dog"})
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def classify(checkpoint, path):
    """Class names and probabilities of one image, by transformers alone."""
    model, processor = (
        loaded.from_pretrained(checkpoint) for loaded in (AiTForImageClassification, ViTImageProcessorPil)
    )
    with torch.no_grad():
        probabilities = model(**processor(Image.open(path), return_tensors="pt")).logits.softmax(-1)[0]
    return {model.config.id2label[index]: value for index, value in enumerate(probabilities.tolist())}


def test_every_image_has_a_line_with_its_classes(checkpoint, image_folder, tmp_path, capsys):
    output = tmp_path / "out" / "predictions.csv"
    (image_folder / "notes.txt").write_text("no image")
    (image_folder / "test" / "cat" / "broken.png").write_bytes(b"no image")
    predict.main([str(image_folder), "--checkpoint", str(checkpoint), "--output", str(output), "--batch_size", "5"])
    rows = read_rows(output)
    files = sorted(path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*.png"))
    assert [row["file"] for row in rows] == files and len(files) == 19
    for row in rows:
        assert row["true_label"] == row["file"].split("/")[1]
        if "broken" in row["file"]:
            assert row["label"] == row["probability_3"] == "" and "cannot identify image file" in row["error"]
            continue
        expected = classify(checkpoint, image_folder / row["file"])
        names = [row["label"], row["label_2"], row["label_3"]]
        assert names == sorted(expected, key=expected.get, reverse=True)
        given = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        assert given == pytest.approx([expected[name] for name in names], abs=2e-6)
        assert row["error"] == ""
    printed = capsys.readouterr().out
    right = sum(row["label"] == row["true_label"] for row in rows)
    assert f"Accuracy on 18 images whose label is known: {100 * right / 18:.2f} %" in printed
    assert "Cannot be read: test/cat/broken.png" in printed and "18 of 19 images classified" in printed
    with Image.open(output.with_name("predictions_confusion_matrix.png")) as picture:
        assert picture.size[0] > 100
    assert {path.name for path in output.parent.iterdir()} == {"predictions.csv", "predictions_confusion_matrix.png"}


def test_one_image_is_classified_by_its_name(checkpoint, image_folder, tmp_path, capsys):
    image, output = image_folder / "test" / "cat" / "0.png", tmp_path / "out.csv"
    predict.main([str(image), "--checkpoint", str(checkpoint), "--output", str(output)])
    (row,) = read_rows(output)
    expected = classify(checkpoint, image)
    label = max(expected, key=expected.get)
    assert (row["file"], row["label"], row["true_label"]) == ("0.png", label, "cat")
    printed = capsys.readouterr().out
    assert f"It is most likely {label} ({100 * expected[label]:.2f} %)." in printed and "Accuracy" not in printed
    assert not list(tmp_path.glob("*.png"))
    image.write_bytes(b"no image")
    predict.main([str(image), "--checkpoint", str(checkpoint), "--output", str(output), "--overwrite", "True"])
    printed = capsys.readouterr().out
    assert "0 of 1 images classified" in printed and "most likely" not in printed


def test_fonts_of_other_scripts_are_used_where_they_are_installed(monkeypatch):
    installed = [SimpleNamespace(name=name) for name in ("DejaVu Sans", "IPAGothic", "Comic Neue")]
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", installed)
    before = matplotlib.rcParams["font.family"]
    with use_all_fonts():
        assert matplotlib.rcParams["font.family"] == [*before, "IPAGothic"]
    assert matplotlib.rcParams["font.family"] == before


def test_names_that_no_font_has_are_said_in_one_line(tmp_path, capsys, recwarn):
    names = ["\U0001f989 owl", "cat"]
    predictions = [predict.Prediction(tmp_path, [name], [1.0], name) for name in names]
    predict.draw_confusion_matrix(predictions, names, tmp_path / "picture.png")
    assert capsys.readouterr().out.count("boxes in the picture") == 1 and not recwarn.list
    predict.draw_confusion_matrix(predictions[1:], names, tmp_path / "picture.png")
    assert capsys.readouterr().out == ""


def test_confusion_matrix_counts_the_classes_in_the_order_of_the_model(monkeypatch, tmp_path):
    drawn = {}

    def draw(true, predicted, labels, **options):
        drawn.update(true=true, predicted=predicted, labels=labels)

    monkeypatch.setattr("sklearn.metrics.ConfusionMatrixDisplay.from_predictions", draw)
    predictions = [
        predict.Prediction(tmp_path, ["dog"], [1.0], "cat"),
        predict.Prediction(tmp_path, ["cat"], [1.0], "cat"),
    ]
    predict.draw_confusion_matrix(predictions, ["owl", "dog", "cat"], tmp_path / "picture.png")
    assert drawn == {"true": ["cat", "cat"], "predicted": ["dog", "cat"], "labels": ["dog", "cat"]}


def test_folder_without_known_labels_has_no_accuracy(checkpoint, image_folder, tmp_path, capsys):
    (image_folder / "train" / "cat").rename(image_folder / "unknown")
    output = tmp_path / "out.csv"
    flags = ["--checkpoint", str(checkpoint), "--output", str(output), "--top_k", "1"]
    predict.main([str(image_folder / "unknown"), *flags])
    rows = read_rows(output)
    assert list(rows[0]) == ["file", "label", "probability", "true_label", "error"]
    assert len(rows) == 6 and {row["true_label"] for row in rows} == {""}
    assert "no accuracy is known" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))
    with pytest.raises(InputError, match="is there already: name another file, or say `--overwrite True`"):
        predict.main([str(image_folder), *flags])
    predict.main([str(image_folder / "train" / "dog"), *flags, "--overwrite", "True"])
    # The folder itself is called like a class.
    assert {row["true_label"] for row in read_rows(output)} == {"dog"}


def test_mistakes_are_said_in_one_line(checkpoint, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    model = ["--checkpoint", str(checkpoint)]
    for flags, message in (
        ([], "Name an image or a folder of images first"),
        ([str(image_folder)], "Name a checkpoint"),
        (["nowhere", *model], "There is no 'nowhere'"),
        (["empty", *model], "The folder 'empty' has no images"),
        ([str(image_folder), *model, "--top_k", "0"], "`--top_k` must be at least 1, but got 0"),
        ([str(image_folder), *model, "--confusion_matrix", "a.txt"], "takes a file that ends in .png"),
        ([str(image_folder), "--checkpoint", "nowhere"], "'nowhere' cannot be loaded"),
    ):
        with pytest.raises(InputError, match=message):
            predict.main(flags)
    assert not list(tmp_path.glob("*.csv"))
