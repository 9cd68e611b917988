"""The model card: nothing in a name breaks out of it, and its Python runs."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from transformers import ViTImageProcessorPil

from conversion.common import save_converted
from examples.sharing import join_command
from examples.training.publishing import write_model_card
from modeling_ait import AiTConfig, AiTForImageClassification
from tests.examples.conftest import TINY_MODEL
from tests.examples.test_sharing import HOSTILE


RESULTS = {
    "accuracy": 0.5,
    "num_parameters": 1,
    "num_train_samples": 1,
    "num_eval_samples": 1,
    "num_steps": 1,
    "seed": 0,
    "train_seconds": 1.0,
    "resumed_from_step": 0,
    "hardware": "cpu",
    "train_loss": 1.0,
    "versions": {"python": "3"},
}
ARGUMENTS = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "optim": "adamw",
    "learning_rate": 0.1,
    "lr_scheduler_type": "linear",
    "weight_decay": 0,
    "crop_padding": 0,
    "horizontal_flip": False,
}


def write_card(folder, name, labels, dataset, command):
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    data = SimpleNamespace(name=dataset, label_names=labels, evaluation=SimpleNamespace(split=None))
    training = SimpleNamespace(hub_model_id=None, output_dir=str(folder.parent / name.replace("/", " ")))
    results = {**RESULTS, "arguments": ARGUMENTS, "command": command}
    write_model_card(model, data, results, training, folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def list_fences(text):
    return [line for line in text.splitlines() if line.lstrip().startswith(("```", "~~~"))]


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\x00" not in text])
def test_names_cannot_break_the_card(text, tmp_path):
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    plain.mkdir()
    hostile.mkdir()
    expected = write_card(plain, "run", ["cat"], "digits", "python -m x")
    card = write_card(hostile, text, [text, "dog"], text, join_command(["python", "-m", "x", "--flag", text]))
    assert list_fences(card) == list_fences(expected)
    headings = [line for line in card.split("\n") if line.startswith("#")]
    assert len(headings) == len([line for line in expected.split("\n") if line.startswith("#")])
    assert all(character.isprintable() or character == "\n" for character in card)
    (code,) = re.findall("```python\n(.*?)```", card, flags=re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (model,) = [keyword.value.value for call in calls for keyword in call.keywords if keyword.arg == "model"]
    assert model == Path(tmp_path, text.replace("/", " ")).resolve().name
    assert {call.func.id for call in calls} == {"pipeline", "classifier", "print"}
    data = ModelCard(card).data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert "<script" not in card.replace("\\<", "").split("## Use")[0].split("---")[-1]


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\x00" not in text and "\udce9" not in text])
def test_names_cannot_break_the_card_of_a_conversion(text, tmp_path):
    folder = tmp_path / text.replace("/", " ")
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    save_converted(model, ViTImageProcessorPil(), folder, text, "python -m x", None)
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall("```python\n(.*?)```", card, flags=re.DOTALL)
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert folder.resolve().name in strings
    assert len(list_fences(card)) == 4
