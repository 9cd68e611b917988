"""What the scripts write: nothing where they were not asked to."""

import importlib
import sys

import pytest
from transformers import ViTImageProcessorPil

from examples.errors import InputError


TRAINING = ("image_classification", "image_classification_accelerate", "relational_reasoning", "lora")
SCRIPTS = (
    *TRAINING,
    "benchmark",
    "compare",
    "compare_vit_finetuning",
    "data.__main__",
    "evaluate_batches",
    "online_adaptation",
    "report",
)


@pytest.fixture
def run(monkeypatch):
    """Call a script as its command does."""

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *flags])
        importlib.import_module(f"examples.{script}").main()

    return run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    yield empty
    assert not list(empty.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_writes_nothing(script, run):
    with pytest.raises(SystemExit) as caught:
        run(script, "--help")
    assert caught.value.code == 0


@pytest.mark.parametrize("script", TRAINING)
@pytest.mark.parametrize("flags", [["--no_such_flag", "1"], ["nowhere.yaml"], ["--dataset_name", "./nowhere"]])
def test_refused_training_leaves_no_folder(script, flags, run):
    with pytest.raises((InputError, SystemExit, ValueError)):
        run(script, *flags)


def test_evaluation_writes_what_it_is_asked_to_alone(make_model, run, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    make_model(image_size=8, num_labels=10).save_pretrained(checkpoint)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True).save_pretrained(checkpoint)
    flags = ["--dataset_name", "digits", "--max_eval_samples", "4", "--batch_sizes", "4", "--num_orders", "1"]
    run("evaluate_batches", "--checkpoints", str(checkpoint), *flags)
    run("evaluate_batches", "--checkpoints", str(checkpoint), *flags, "--output", str(tmp_path / "batches.json"))
    assert (tmp_path / "batches.json").exists()
