"""What the page opens: a checkpoint, and images of its data where they need no download."""

import json

import pytest
from PIL import Image

from examples.data.arguments import DataArguments
from examples.demonstration.opening import is_at_hand, name_labels, open_checkpoint
from examples.errors import InputError
from modeling_ait import AiTForRelationalReasoning
from tests.examples.demonstration.conftest import DIGITS, QUESTIONS, save_checkpoint


def record(folder, **arguments):
    (folder / "results.json").write_text(json.dumps({"arguments": arguments}))


def test_images_are_those_that_the_run_was_evaluated_on(tmp_path, opened):
    checkpoint = save_checkpoint(tmp_path, **DIGITS)
    record(tmp_path, dataset_name="digits", max_eval_samples=30)
    recorded = open_checkpoint(checkpoint, DataArguments(), 20)
    assert recorded.images.pixels.shape == (20, 3, 8, 8) and recorded.label_names == [str(k) for k in range(10)]
    assert len(open_checkpoint(checkpoint, DataArguments(), 200).images.labels) == 30
    assert len(opened.images.labels) == 40 and opened.images.labels.unique().numel() > 5


def test_data_that_are_not_at_hand_are_left_out(tmp_path, capsys):
    checkpoint = save_checkpoint(tmp_path, **DIGITS)
    Image.new("L", (8, 8), 200).save(tmp_path / "example.png")
    record(tmp_path, dataset_name="someone/pictures")
    opened = open_checkpoint(checkpoint, DataArguments(), 20)
    assert opened.images is None and opened.example.shape == (3, 8, 8)
    assert "comes without" not in capsys.readouterr().out
    assert not is_at_hand(DataArguments(dataset_name="cifar10")) and is_at_hand(DataArguments(dataset_name="triangle"))
    # Its classes are not those of the checkpoint: said, if it was recorded, and refused, if it was asked for.
    record(tmp_path, dataset_name="triangle")
    assert open_checkpoint(checkpoint, DataArguments(), 20).images is None
    assert "comes without the images" in capsys.readouterr().out
    with pytest.raises(InputError, match="has 10 labels without a name, but 'triangle' has 2"):
        open_checkpoint(checkpoint, DataArguments(dataset_name="triangle"), 20)


def test_names_of_labels_are_told_apart(make_model):
    model = make_model(id2label={0: "crane", 1: "dog", 2: "crane"}, label2id={"crane": 0, "dog": 1})
    assert name_labels(model) == ["crane (0)", "dog", "crane (2)"]


def test_model_of_one_channel_reads_grey_images(tmp_path):
    opened = open_checkpoint(save_checkpoint(tmp_path, **DIGITS, num_channels=1), DataArguments(), 1)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    pixel_values = opened.read({"path": str(tmp_path / "red.png"), "bytes": None}, "red")
    assert pixel_values.shape == (1, 8, 8) and opened.images is None and opened.example is None


def test_variant_of_the_questions(tmp_path):
    checkpoint = save_checkpoint(tmp_path, AiTForRelationalReasoning, **QUESTIONS)
    assert open_checkpoint(checkpoint, DataArguments(), 1).variant == "fixed"
    record(tmp_path, dataset_name="sort_of_clevr", dataset_config_name="original")
    assert open_checkpoint(checkpoint, DataArguments(), 1).variant == "original"
    named = DataArguments(dataset_name="sort_of_clevr", dataset_config_name="fixed")
    opened = open_checkpoint(checkpoint, named, 1)
    assert opened.variant == "fixed" and opened.has_questions and opened.label_names[:3] == ["yes", "no", "square"]


def test_what_cannot_be_shown_is_refused(tmp_path):
    plain = save_checkpoint(tmp_path / "plain", **DIGITS, num_memory_slots=0)
    with pytest.raises(InputError, match="has no memory to look at"):
        open_checkpoint(plain, DataArguments(), 1)
    other = save_checkpoint(tmp_path / "other", AiTForRelationalReasoning, **{**QUESTIONS, "question_size": 5})
    with pytest.raises(InputError, match="takes 5 numbers and has 10 answers, in place of 18 and 10"):
        open_checkpoint(other, DataArguments(), 1)
    asked = save_checkpoint(tmp_path / "asked", AiTForRelationalReasoning, **QUESTIONS)
    with pytest.raises(InputError, match="answers questions, which 'digits' has not"):
        open_checkpoint(asked, DataArguments(dataset_name="digits"), 1)
    with pytest.raises(InputError, match="`--eval_split` has no effect where the page makes the scenes"):
        open_checkpoint(asked, DataArguments(eval_split="validation"), 1)
    images = save_checkpoint(tmp_path / "images", **DIGITS)
    with pytest.raises(InputError, match="`--max_eval_samples` has no effect without `--dataset_name`"):
        open_checkpoint(images, DataArguments(max_eval_samples=3), 1)
    with pytest.raises(InputError, match="There is no folder"):
        open_checkpoint("./nowhere", DataArguments(), 1)
