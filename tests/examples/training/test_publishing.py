"""The model card: nothing in a name breaks out of it, and its Python runs."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard, metadata_load
from transformers import ViTImageProcessorPil

from conversion.common import save_converted
from examples.sharing import join_command, push_files
from examples.training.publishing import write_model_card
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning
from modeling_ait.card_ait import is_users_card
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


def write_card_of(folder, model, dataset, split, arguments=None, **results):
    data = SimpleNamespace(name=dataset, label_names=["cat", "dog"], evaluation=SimpleNamespace(split=split))
    training = SimpleNamespace(hub_model_id="user/mine", output_dir=str(folder))
    measured = {**RESULTS, "arguments": ARGUMENTS | (arguments or {}), "command": "python -m x recipe.yaml", **results}
    write_model_card(model, data, measured, training, folder)
    return ModelCard.load(folder / "README.md")


def test_card_names_every_augmentation_that_was_on(tmp_path):
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    assert "\n| Augmentation | none |\n" in write_card_of(tmp_path, model, "digits", "test").text
    options = {"crop_padding": 4, "quarter_turns": True, "auto_augment": "randaugment", "mixup_alpha": 0.2}
    options |= {"augment_questions": True, "redraw_questions": [1, 2, 3]}
    text = write_card_of(tmp_path, model, "digits", "test", options).text
    listed = (
        "crop_padding: 4, quarter_turns, auto_augment: randaugment, mixup_alpha: 0.2, augment_questions, "
        "redraw_questions: [1, 2, 3]"
    )
    assert f"\n| Augmentation | {listed} |\n" in text


def test_card_of_a_run_has_its_metrics_data_and_origin(tmp_path):
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    card = write_card_of(tmp_path, model, "cifar10", "test", {"model_name_or_path": "user/base"})
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata["base_model"] == "user/base" and metadata["metrics"] == ["accuracy"]
    assert metadata["datasets"] == ["uoft-cs/cifar10"] and metadata["pipeline_tag"] == "image-classification"
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_split, result.metric_value) == ("uoft-cs/cifar10", "test", 0.5)
    assert "| Fine-tuned from | `user/base` |" in card.text and "python -m x recipe.yaml" in card.text
    assert not is_users_card((tmp_path / "README.md").read_text())


def test_card_names_a_held_out_part_and_no_folder(tmp_path):
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    arguments = {"model_name_or_path": str(tmp_path), "train_split": "train", "dataset_config_name": "matched"}
    card = write_card_of(tmp_path, model, str(tmp_path / "birds"), "train", arguments)
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("birds", "train, held-out part")
    assert result.dataset_config == "matched"
    assert card.data.base_model is None and card.data.datasets is None
    text = (tmp_path / "README.md").read_text()
    assert str(tmp_path) not in text and f"| Fine-tuned from | `{tmp_path.name}`, a local folder |" in text


def test_card_of_questions_has_the_accuracy_of_each_kind(tmp_path):
    model = AiTForRelationalReasoning(AiTConfig(**TINY_MODEL, question_size=18))
    groups = {"binary": 0.75, "ternary": 0.25}
    card = write_card_of(tmp_path, model, "sort_of_clevr", None, accuracy_by_group=groups)
    assert card.data.pipeline_tag == "visual-question-answering"
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {"Accuracy": 0.5, "Accuracy, binary": 0.75, "Accuracy, ternary": 0.25}
    assert "| questions | accuracy, % |\n|---|---|\n| binary | 75.00 |\n| ternary | 25.00 |\n" in card.text
    (code,) = re.findall("```python\n(.*?)```", card.text, flags=re.DOTALL)
    ast.parse(code)
    assert "AutoModelForVisualQuestionAnswering" in code and "pipeline" not in code


def test_card_of_a_conversion_names_its_base_model(tmp_path):
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    save_converted(model, ViTImageProcessorPil(), tmp_path, "vit", "python -m x", None, "google/vit-base-patch16-224")
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata["base_model"] == "google/vit-base-patch16-224"
    assert metadata["pipeline_tag"] == "image-classification" and metadata["license"] == "apache-2.0"


def test_card_that_was_changed_on_the_hub_is_not_pushed_over(tmp_path, monkeypatch, capsys):
    uploaded = {}

    class Api:
        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def create_branch(self, repo_id, branch, exist_ok):
            uploaded["branch"] = branch

        def upload_folder(self, allow_patterns, **options):
            uploaded["files"] = allow_patterns

    model = AiTForImageClassification(AiTConfig(**TINY_MODEL))
    write_card_of(tmp_path, model, "cifar10", "test")
    (tmp_path / "config.json").write_text("{}")
    remote = {"card": None}
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("modeling_ait.card_ait.read_remote_card", lambda *arguments, **options: remote["card"])
    for card, files in (
        (None, ["README.md", "config.json"]),
        ((tmp_path / "README.md").read_text(), ["README.md", "config.json"]),
        ("# Mine\n", ["config.json"]),
    ):
        remote["card"] = card
        push_files(tmp_path, "user/mine", "Done", ValueError, revision="named")
        assert uploaded == {"files": files, "branch": "named"}
    assert "stays as it is" in capsys.readouterr().out
