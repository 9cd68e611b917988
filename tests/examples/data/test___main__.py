"""`python -m examples.data`: contact sheets and the check of images."""

import datasets
import numpy as np
import pytest
from PIL import Image

from examples.data import __main__ as data_script
from examples.data.__main__ import main
from examples.data.generated import GeneratedBuilder
from examples.data.images import ImageClassificationDataset
from examples.data.sort_of_clevr import ANSWERS, SortOfClevr, describe_question
from examples.errors import InputError


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


def test_preview_generates_only_what_it_shows(tmp_path, monkeypatch, capsys):
    generated = []
    original = GeneratedBuilder._generate_examples

    def count(self, split_id, ranges):
        for row in original(self, split_id, ranges):
            generated.append(row)
            yield row

    monkeypatch.setattr(GeneratedBuilder, "_generate_examples", count)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    main(["sort_of_clevr", "--preview", str(tmp_path / "sheet.png"), "--num_images", "3"])
    assert len(generated) == 6
    assert "train: 9800 rows" in capsys.readouterr().out


def test_data_script_checks_images(image_folder, capsys):
    (image_folder / "train" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 18 images cannot be read"):
        main([str(image_folder), "--check_images"])
    main([str(image_folder), "--skip_bad_images", "True"])
    assert "train: 11 rows" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--cache_images", "False"], ["--crop_padding", "1", "--mixup_alpha", "1"]])
def test_fetching_is_measured_on_the_training_samples(flags, image_folder, capsys, monkeypatch):
    fetched = []
    original = ImageClassificationDataset.__getitems__
    monkeypatch.setattr(
        ImageClassificationDataset,
        "__getitems__",
        lambda self, rows: fetched.append((self, rows)) or original(self, rows),
    )
    main([str(image_folder), "--time", "16", "--num_timed", "300", *flags])
    assert "images per CPU second" in capsys.readouterr().out
    # One batch to begin with.
    assert sum(len(rows) for _, rows in fetched) == 128 + 300
    dataset = fetched[0][0]
    assert dataset[0]["pixel_values"].shape == (3, 16, 16) and len(dataset) == 12
    assert (dataset.pixels.cached is None) == ("False" in flags)
    assert (dataset.mixup_alpha, dataset.pixels.crop_padding) == ((1.0, 1) if "--mixup_alpha" in flags else (None, 0))


@pytest.mark.parametrize("flag", ["--time", "--num_timed", "--num_images"])
def test_number_below_one_is_refused(flag):
    with pytest.raises(InputError, match=f"`{flag}` must be at least 1, but got 0"):
        main(["digits", flag, "0"])
