"""Pushing to a Hub and loading from it, in processes that have the package and in processes that have not."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load
from transformers import ViTImageProcessorPil
from transformers.utils import is_torchvision_available

import modeling_ait
from modeling_ait import AiTForImageClassification

from .loading import assert_same_model, assert_same_weights, load_elsewhere


MODEL_ID = "user/tiny-ait"
CODE_FILES = {path.name for path in Path(modeling_ait.__file__).parent.glob("*_ait.py")}
AUTO_MAP = {
    "AutoConfig": "configuration_ait.AiTConfig",
    "AutoModel": "modeling_ait.AiTModel",
    "AutoModelForImageClassification": "modeling_ait.AiTForImageClassification",
    "AutoModelForVisualQuestionAnswering": "modeling_ait.AiTForRelationalReasoning",
}
PUSH = """
import sys
from transformers import ViTImageProcessorPil
from modeling_ait import AiTForImageClassification, AiTModel

first, second, third, folder = sys.argv[1:]
model = AiTForImageClassification.from_pretrained(first)
model.push_to_hub("user/tiny-ait", commit_message="A model")
ViTImageProcessorPil(size={"height": 8, "width": 12}).push_to_hub("user/tiny-ait")
AiTForImageClassification.from_pretrained(second).push_to_hub("user/tiny-ait", revision="second")
AiTForImageClassification.from_pretrained(third).push_to_hub("user/tiny-ait", create_pr=True)

base = AiTModel.from_pretrained(first)
base.save_pretrained(folder + "/base-ait", push_to_hub=True, private=True, commit_message="A base model")
model.save_pretrained(folder + "/sharded", push_to_hub=True, repo_id="user/sharded-ait", max_shard_size="8KB")
model.save_pretrained(folder + "/both", variant="half")
model.save_pretrained(folder + "/both", push_to_hub=True, repo_id="user/half-ait", variant="half")
half = {name: tensor + 1 for name, tensor in model.state_dict().items()}
model.save_pretrained(folder + "/changed", push_to_hub=True, repo_id="user/changed-ait", state_dict=half)
model.save_pretrained(folder + "/rank", is_main_process=False, push_to_hub=True, repo_id="user/second-rank-ait")
"""


@pytest.fixture(scope="module")
def pushed(hub, run_python, make_trained, tmp_path_factory):
    """What one process with the package pushed, and the models that it pushed."""
    folder = tmp_path_factory.mktemp("pushed")
    models = {name: make_trained(seed) for seed, name in enumerate(("first", "second", "third"))}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    result = run_python(PUSH, *(folder / name for name in models), folder, hub=hub, has_package=True)
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(folder=folder, **models)


def test_push_uploads_weights_code_and_configuration(hub, pushed):
    files = hub.files(MODEL_ID)
    assert files.keys() == CODE_FILES | {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    weights = load(files["model.safetensors"])
    assert weights.keys() == pushed.first.state_dict().keys()
    for name, tensor in pushed.first.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    config = json.loads(files["config.json"])
    assert config["auto_map"] == AUTO_MAP
    assert config["architectures"] == ["AiTForImageClassification"]
    assert json.loads(files["preprocessor_config.json"])["size"] == {"height": 8, "width": 12}
    repository = hub.repositories[MODEL_ID]
    assert not repository.is_private
    assert repository.commits[repository.resolve("main")]["model.safetensors"].is_lfs
    assert "A model" in repository.titles.values()


def test_save_pretrained_with_push_uploads_what_it_saved(hub, pushed):
    files = hub.files("user/base-ait")
    assert files.keys() == CODE_FILES | {"README.md", "config.json", "model.safetensors"}
    assert json.loads(files["config.json"])["auto_map"] == AUTO_MAP
    for name in files.keys() - {"README.md"}:
        assert (pushed.folder / "base-ait" / name).read_bytes() == files[name], name
    repository = hub.repositories["user/base-ait"]
    assert repository.is_private
    assert "A base model" in repository.titles.values()


def test_save_pretrained_with_push_uploads_shards_variants_and_given_weights(hub, pushed):
    sharded = hub.files("user/sharded-ait")
    index = json.loads(sharded["model.safetensors.index.json"])["weight_map"]
    assert index.keys() == pushed.first.state_dict().keys()
    assert len(set(index.values())) > 1
    assert set(index.values()) == {name for name in sharded if name.endswith(".safetensors")}
    assert {name for name in hub.files("user/half-ait") if "safetensors" in name} == {"model.half.safetensors"}
    changed = load(hub.files("user/changed-ait")["model.safetensors"])
    for name, tensor in pushed.first.state_dict().items():
        assert torch.equal(changed[name], tensor + 1), name


def test_save_pretrained_of_another_rank_pushes_and_writes_nothing(hub, pushed):
    assert "user/second-rank-ait" not in hub.repositories
    assert not [path for path in (pushed.folder / "rank").rglob("*") if path.is_file()]


CHECKPOINTS = {
    "main": ("first", {"pretrained_model_name_or_path": MODEL_ID}),
    "branch": ("second", {"pretrained_model_name_or_path": MODEL_ID, "revision": "second"}),
    "pull-request": ("third", {"pretrained_model_name_or_path": MODEL_ID, "revision": "refs/pr/1"}),
    "sharded": ("first", {"pretrained_model_name_or_path": "user/sharded-ait"}),
}


@pytest.fixture(scope="module")
def loaded_without_package(hub, pushed, run_python, tmp_path_factory):
    """What one process without the package found in each place."""
    checkpoints = [{**options, "trust_remote_code": True} for _, options in CHECKPOINTS.values()]
    loaded = load_elsewhere(run_python, tmp_path_factory.mktemp("loaded"), *checkpoints, hub=hub)
    return dict(zip(CHECKPOINTS, loaded))


@pytest.mark.parametrize("place", CHECKPOINTS)
def test_hub_model_loads_without_the_package(pushed, loaded_without_package, place):
    loaded = loaded_without_package[place]
    assert_same_model(loaded, getattr(pushed, CHECKPOINTS[place][0]))
    names = [module.split(".") for module in loaded.modules]
    assert {name[0] for name in names} == {"transformers_modules"}
    assert [name[-1] for name in names] == ["configuration_ait", "modeling_ait", "modeling_ait"]
    assert loaded.id2label == {"0": "cat", "1": "dog", "2": "owl"}


def test_hub_model_loads_with_the_package_and_no_trust(hub, pushed, run_python, tmp_path):
    checkpoint = {"pretrained_model_name_or_path": MODEL_ID}
    trusting = {**checkpoint, "trust_remote_code": True}
    for loaded in load_elsewhere(run_python, tmp_path, checkpoint, trusting, hub=hub, has_package=True):
        assert_same_model(loaded, pushed.first)
        assert set(loaded.modules) == {"modeling_ait.configuration_ait", "modeling_ait.modeling_ait"}


PIPELINE = """
import json, sys
from transformers import AutoImageProcessor, ViTImageProcessorPil, pipeline

options = {"model": "user/tiny-ait", "trust_remote_code": True}
if getattr(AutoImageProcessor, "is_dummy", False):
    # transformers 5.17 has a stand-in that refuses every call where torchvision is missing.
    processor = options["image_processor"] = ViTImageProcessorPil.from_pretrained("user/tiny-ait")
else:
    processor = AutoImageProcessor.from_pretrained("user/tiny-ait", trust_remote_code=True)
classify = pipeline("image-classification", **options)
print(json.dumps({"processor": processor.to_dict(), "module": type(classify.model).__module__,
                  "scores": classify(sys.argv[1])}))
"""


def test_pipeline_classifies_without_the_package(hub, pushed, run_python, tmp_path):
    image = Image.effect_noise((30, 20), 80).convert("RGB")
    image.save(tmp_path / "image.png")
    result = run_python(PIPELINE, tmp_path / "image.png", hub=hub)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer["module"].startswith("transformers_modules.")
    processor = ViTImageProcessorPil(size={"height": 8, "width": 12})
    assert answer["processor"] == json.loads(processor.to_json_string())
    if is_torchvision_available():
        # The pipeline takes it then, and it rounds otherwise.
        from transformers import ViTImageProcessor

        processor = ViTImageProcessor(size={"height": 8, "width": 12})
    with torch.no_grad():
        scores = pushed.first(**processor(image, return_tensors="pt")).logits.softmax(-1)[0]
    assert {entry["label"]: entry["score"] for entry in answer["scores"]} == pytest.approx(
        {"cat": scores[0].item(), "dog": scores[1].item(), "owl": scores[2].item()}, abs=1e-6
    )


FINE_TUNE = """
import sys
import torch
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("user/tiny-ait", trust_remote_code=True).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
model(torch.randn(4, 3, 8, 12), labels=torch.arange(4) % 3).loss.backward()
optimizer.step()
model.save_pretrained(sys.argv[1])
model.push_to_hub("user/tuned-ait")
model.ait.save_pretrained(sys.argv[1] + "-base")
"""


def test_model_fine_tuned_without_the_package_saves_its_code_again(hub, pushed, run_python, tmp_path):
    folder = tmp_path / "tuned"
    result = run_python(FINE_TUNE, folder, hub=hub)
    assert result.returncode == 0, result.stderr
    for files in ({path.name for path in folder.iterdir()}, hub.files("user/tuned-ait").keys() - {"README.md"}):
        assert files == CODE_FILES | {"config.json", "model.safetensors"}
    base_folder = tmp_path / "tuned-base"
    assert {path.name for path in base_folder.iterdir()} == CODE_FILES | {"config.json", "model.safetensors"}
    for saved in (folder, base_folder):
        assert json.loads((saved / "config.json").read_text(encoding="utf-8"))["auto_map"] == AUTO_MAP

    tuned = AiTForImageClassification.from_pretrained(folder)
    assert not torch.equal(tuned.ait.memories[0], pushed.first.ait.memories[0])
    assert not torch.equal(tuned.classifier.weight, pushed.first.classifier.weight)
    places = [{"pretrained_model_name_or_path": str(folder)}, {"pretrained_model_name_or_path": "user/tuned-ait"}]
    checkpoints = [{**place, "trust_remote_code": True} for place in places]
    for loaded in load_elsewhere(run_python, tmp_path, *checkpoints, hub=hub):
        assert_same_model(loaded, tuned)
        assert {module.split(".")[0] for module in loaded.modules} == {"transformers_modules"}


FAILING_PUSH = """
import sys
from modeling_ait import AiTForImageClassification

model = AiTForImageClassification.from_pretrained(sys.argv[1])
model.save_pretrained(sys.argv[2], push_to_hub=True, repo_id="user/broken-ait")
"""


def test_failing_push_leaves_the_local_save_complete(hub, run_python, make_trained, tmp_path):
    old, new = make_trained(0), make_trained(1)
    old.save_pretrained(tmp_path / "saved")
    new.save_pretrained(tmp_path / "new")
    hub.broken_path = re.compile("^/api/models/user/broken-ait/commit/")
    try:
        result = run_python(FAILING_PUSH, tmp_path / "new", tmp_path / "saved", hub=hub, has_package=True)
    finally:
        hub.broken_path = None
    assert result.returncode != 0
    assert "500" in result.stderr
    assert not hub.files("user/broken-ait")
    assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path / "saved"), new)
    assert {path.name for path in (tmp_path / "saved").iterdir()} - {"README.md"} == CODE_FILES | {
        "config.json",
        "model.safetensors",
    }
