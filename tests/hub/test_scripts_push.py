"""`--push_to_hub` of the training scripts and of the conversions: what arrives in the repository."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import ViTConfig, ViTForImageClassification

import modeling_ait
from modeling_ait.card_ait import is_users_card

from .loading import load_elsewhere
from .server import TOKEN


CODE_FILES = {path.name for path in Path(modeling_ait.__file__).parent.glob("*_ait.py")}
OFFICIAL = Path(__file__).parents[1] / "fixtures" / "official" / "image_classification.pth"
RUN = """
import importlib, sys
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""
TRAINING = {
    "dataset_name": "digits",
    "max_train_samples": 32,
    "max_eval_samples": 20,
    "max_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "push_to_hub": True,
    "model_config": json.dumps(
        {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ),
}


@pytest.mark.parametrize("script", ["image_classification", "image_classification_accelerate"])
def test_training_script_pushes_the_finished_folder(hub, run_python, tmp_path, script):
    repository = f"user/{script}".replace("_", "-")
    flags = {**TRAINING, "output_dir": tmp_path / "run", "hub_model_id": repository, "hub_token": TOKEN}
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    # Files of the user's own, and what an earlier run may have left.
    (tmp_path / "run").mkdir()
    for name in ("notes.txt", ".env", "previous_results.json", "optimizer.pt"):
        (tmp_path / "run" / name).write_text("private")
    # The flag alone has to be enough.
    result = run_python(RUN, f"examples.{script}", *arguments, hub=hub, has_package=True, HF_TOKEN="")
    assert result.returncode == 0, result.stderr
    files = hub.files(repository)
    expected = {
        "README.md",
        "config.json",
        "example.png",
        "memory.png",
        "model.safetensors",
        "preprocessor_config.json",
        "results.json",
    }
    assert files.keys() - {".gitattributes"} == expected | CODE_FILES
    assert not [name for name, content in files.items() if TOKEN.encode() in content]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in result.stdout + result.stderr
    for name in expected:
        assert files[name] == (tmp_path / "run" / name).read_bytes(), name
    card = ModelCard(files["README.md"].decode())
    (result,) = card.data.eval_results
    assert result.metric_value == json.loads(files["results.json"])["accuracy"]
    assert (result.dataset_name, result.dataset_split, result.task_type) == ("digits", "test", "image-classification")
    assert (card.data.license, card.data.pipeline_tag, card.data.metrics) == (
        "apache-2.0",
        result.task_type,
        ["accuracy"],
    )
    assert not is_users_card(files["README.md"].decode())
    assert repository in card.text


def test_failing_push_of_a_run_keeps_the_folder(run_python, tmp_path):
    flags = {**TRAINING, "output_dir": tmp_path / "run", "hub_model_id": "user/nowhere"}
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    result = run_python(RUN, "examples.image_classification", *arguments, has_package=True)
    assert result.returncode != 0
    assert "InputError: The run is finished in" in result.stderr
    assert "could not be pushed to 'user/nowhere'. The Hub cannot be reached" in result.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["num_steps"] == 2
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("source", ["official", "vit"])
def test_conversion_pushes_what_it_wrote(hub, run_python, tmp_path, source):
    options = ["--output_dir", tmp_path / "ait", "--push_to_hub", f"user/from-{source}"]
    if source == "official":
        arguments = ["conversion.convert_official", "--checkpoint", OFFICIAL, *options]
    else:
        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=(8, 12),
            patch_size=4,
        )
        ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
        arguments = ["conversion.convert_vit", "--model", tmp_path / "vit", *options]
    result = run_python(RUN, *arguments, hub=hub, has_package=True)
    assert result.returncode == 0, result.stderr
    files = hub.files(f"user/from-{source}")
    assert files.keys() == CODE_FILES | {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    for name, content in files.items():
        assert content == (tmp_path / "ait" / name).read_bytes(), name
    if source == "vit":
        checkpoint = {"pretrained_model_name_or_path": f"user/from-{source}", "trust_remote_code": True}
        (loaded,) = load_elsewhere(run_python, tmp_path, checkpoint, hub=hub)
        assert {module.split(".")[0] for module in loaded.modules} == {"transformers_modules"}
