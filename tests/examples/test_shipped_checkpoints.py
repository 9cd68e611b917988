"""The checkpoints under `examples/checkpoints`: each opens without training and gives the accuracy that it states."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoImageProcessor

from examples import evaluate
from modeling_ait.card_ait import is_users_card


REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "examples" / "checkpoints"
CHECKPOINTS = sorted(path for path in FOLDER.iterdir() if path.is_dir())
LARGEST = 20_000_000
# The standard test set, or the first images of the test split.
PARTS = ("standard.json", "first_images.json")

EACH = pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.name)


@EACH
def test_accuracy_is_the_recorded_one(checkpoint, tmp_path, capsys):
    """All of a small set, or the part that a file beside it is of: one image may fall otherwise on another machine."""
    flags = ["--device", "cpu", "--output", str(tmp_path / "evaluation.json")]
    part = next((checkpoint / name for name in PARTS if (checkpoint / name).exists()), None)
    record = json.loads((part or checkpoint / "results.json").read_text())
    if part is not None and record["data"]["generator_test_size"] is not None:
        flags += ["--generator_test_size", str(record["data"]["generator_test_size"])]
    elif part is not None:
        # Images that are too many to be here whole, nor can they be made.
        flags += ["--dataset_name", str(REPOSITORY / record["data"]["dataset_name"])]
        flags += ["--train_split", "test", "--eval_split", "test"]
    evaluate.main([str(checkpoint), *flags])
    measured = json.loads((tmp_path / "evaluation.json").read_text())
    num_samples = record.get("num_samples") or record["num_eval_samples"]
    assert measured["num_samples"] == num_samples
    assert abs(measured["accuracy"] - record["accuracy"]) < 1.5 / measured["num_samples"]


@EACH
def test_folder_is_complete_and_says_where_it_comes_from(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    needed = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json"}
    assert needed <= names <= needed | {"example.png", "memory.png", "other_seed.json", *PARTS}
    assert AutoConfig.from_pretrained(checkpoint).model_type == "ait"
    AutoImageProcessor.from_pretrained(checkpoint)
    results = json.loads((checkpoint / "results.json").read_text())
    card = (checkpoint / "README.md").read_text()
    assert results["command"] in card and not is_users_card(card)
    assert ModelCard(card).data.eval_results[0].metric_value == results["accuracy"]


def test_together_they_stay_small():
    assert CHECKPOINTS
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < LARGEST
