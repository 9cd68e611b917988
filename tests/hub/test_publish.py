"""`examples.publish`: what a folder and a repository get of a finished run."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification, ViTImageProcessorPil
from transformers.modelcard import TrainingSummary

import modeling_ait
from examples import publish
from examples.errors import InputError
from modeling_ait.card_ait import is_users_card, make_card

from .loading import load_elsewhere


CODE_FILES = {path.name for path in Path(modeling_ait.__file__).parent.glob("*_ait.py")}
PUBLISHED = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json"}
RUN = """
import sys
from examples.publish import main
main(sys.argv[1:])
"""


@pytest.fixture
def run_folder(make_model, tmp_path):
    """What a finished run leaves, with files that are nobody else's business."""
    folder = tmp_path / "run"
    model = make_model()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 12}).save_pretrained(folder)
    (folder / "README.md").write_text(make_card(model, "run"))
    (folder / "results.json").write_text("{}")
    (folder / "checkpoint-2").mkdir()
    for name in ("training_args.bin", "notes.txt", "run_arguments.json", ".lock"):
        (folder / name).write_text("private")
    return folder


def test_folder_gets_the_model_without_code(run_folder, make_model, make_images, tmp_path):
    output = tmp_path / "published" / "ait"
    publish.main([str(run_folder), "--output", str(output)])
    assert {path.name for path in output.iterdir()} == PUBLISHED
    assert "auto_map" not in json.loads((output / "config.json").read_text())
    card = (output / "README.md").read_text()
    assert "# ait\n" in card and '.from_pretrained("ait", ' in card and not is_users_card(card)
    for name in PUBLISHED - {"config.json", "README.md"}:
        assert (output / name).read_bytes() == (run_folder / name).read_bytes()
    with torch.no_grad():
        expected = make_model().eval()(make_images()).logits
        assert torch.equal(AutoModelForImageClassification.from_pretrained(output)(make_images()).logits, expected)


@pytest.mark.parametrize("state", ["missing", "draft", "changed"])
def test_card_that_is_missing_or_unfinished_is_completed(run_folder, state):
    card = run_folder / "README.md"
    draft = TrainingSummary("mine", dataset="Birds", eval_results={"Accuracy": 0.25}).to_model_card()
    before = {"missing": None, "draft": draft, "changed": "# Mine\n"}[state]
    card.unlink()
    if before is not None:
        card.write_text(before)
    publish.complete_card(run_folder, run_folder, "user/mine")
    text = card.read_text()
    assert is_users_card(text) is (state == "changed")
    if state == "changed":
        assert text == before
    else:
        assert ModelCard(text).data.license == "apache-2.0" and "# user/mine" in text
        assert ("Trained on the Birds dataset" in text) is (state == "draft")


@pytest.mark.parametrize(
    ("base", "message"), [("runs/digits/one", "which nobody else has: publish that"), ("user/base", "without a card")]
)
def test_adapter_that_nobody_could_use_is_refused(run_folder, base, message):
    (run_folder / "README.md").unlink()
    (run_folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(InputError, match=message):
        publish.complete_card(run_folder, run_folder, "user/mine")


@pytest.mark.parametrize("with_code", [True, False], ids=["run", "published folder"])
def test_repository_gets_the_code_too(hub, run_python, run_folder, tmp_path, with_code):
    repository = f"user/published-{with_code}".lower()
    source = run_folder
    if not with_code:
        source = tmp_path / "published"
        publish.main([str(run_folder), "--output", str(source)])
    before = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    result = run_python(RUN, source, "--repo_id", repository, "--private", "True", hub=hub, has_package=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"Pushed to {repository}."
    files = hub.files(repository)
    assert files.keys() - {".gitattributes"} == PUBLISHED | CODE_FILES
    assert files["config.json"] == (run_folder / "config.json").read_bytes()
    checkpoint = {"pretrained_model_name_or_path": repository, "trust_remote_code": True}
    (loaded,) = load_elsewhere(run_python, tmp_path, checkpoint, hub=hub)
    assert {module.split(".")[0] for module in loaded.modules} == {"transformers_modules"}
    assert {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()} == before
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and f"# {repository}\n" in card.text


def test_files_that_are_there_stay_unless_told(run_folder, tmp_path):
    output = tmp_path / "published"
    output.mkdir()
    # As in a clone of an empty repository.
    (output / ".gitattributes").write_text("*.safetensors filter=lfs")
    publish.main([str(run_folder), "--output", str(output)])
    with pytest.raises(InputError, match=r"holds a model already.*--overwrite"):
        publish.main([str(run_folder), "--output", str(output)])
    (output / "results.json").write_text('{"mine": 1}')
    publish.main([str(run_folder), "--output", str(output), "--overwrite", "True"])
    assert (output / "results.json").read_text() == "{}"
    assert (output / ".gitattributes").read_text() == "*.safetensors filter=lfs"


@pytest.mark.parametrize("of_another", ["export.json", "run_arguments.json", "checkpoint-2", "config.json"])
def test_what_is_no_published_model_is_never_replaced(run_folder, of_another, tmp_path):
    output = tmp_path / "published"
    publish.main([str(run_folder), "--output", str(output)])
    if of_another == "checkpoint-2":
        (output / of_another).mkdir()
    else:
        (output / of_another).write_text('{"mine": 1}')
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="holds something else than a published AiT"):
        publish.main([str(run_folder), "--output", str(output), "--overwrite", "True"])
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name the folder"),
        (["FOLDER"], "Give one of `--repo_id`"),
        (["FOLDER", "--repo_id", "a/b", "--output", "c"], "Give one of `--repo_id`"),
        (["FOLDER", "--output", "c", "--private", "True"], "belong to `--repo_id`"),
        (["FOLDER", "--repo_id", "a/b", "--overwrite", "True"], "belongs to `--output`"),
        (["nowhere", "--output", "c"], "has no finished model"),
        (["FOLDER", "--output", ""], "Give one of `--repo_id`"),
        (["FOLDER", "--output", "FOLDER/results.json", "--overwrite", "True"], "is a file: name a folder"),
        (
            ["FOLDER", "--output", "FOLDER/checkpoint-2", "--overwrite", "True"],
            "holds something else than a published AiT",
        ),
        (["FOLDER", "--output", "unmounted/c"], "'unmounted' is a link to 'disk', which is not there"),
    ],
)
def test_what_cannot_be_published_is_refused(run_folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run_folder / "checkpoint-2" / "state.json").write_text("{}")
    (tmp_path / "unmounted").symlink_to("disk")
    with pytest.raises(InputError, match=message):
        publish.main([argument.replace("FOLDER", str(run_folder)) for argument in arguments])
    assert not (tmp_path / "c").exists()


def test_nothing_of_another_model_stays_in_the_folder(run_folder, make_model, tmp_path):
    output = tmp_path / "published"
    make_model().save_pretrained(output, max_shard_size="2KB")
    (output / "memory.png").write_bytes(b"of the other")
    (output / "notes.txt").write_text("mine")
    assert len(list(output.glob("*.safetensors"))) > 1
    publish.main([str(run_folder), "--output", str(output), "--overwrite", "True"])
    assert {path.name for path in output.iterdir()} == PUBLISHED | {"notes.txt"}


def test_run_is_not_published_into_itself(run_folder):
    before = {path.name: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="is the run itself: name another folder"):
        publish.main([str(run_folder), "--output", f"{run_folder}/../run", "--overwrite", "True"])
    assert {path.name: path.read_bytes() for path in run_folder.iterdir() if path.is_file()} == before


def test_model_that_cannot_be_loaded_is_refused(run_folder, make_model, tmp_path):
    make_model().save_pretrained(run_folder, max_shard_size="2KB")
    (run_folder / "model.safetensors").unlink(missing_ok=True)
    sorted(run_folder.glob("*.safetensors"))[1].unlink()
    flags = [str(run_folder), "--output", str(tmp_path / "published")]
    with pytest.raises(InputError, match=r"model-00002-of-.*is missing, which model.safetensors.index.json names"):
        publish.main(flags)
    index = run_folder / "model.safetensors.index.json"
    for weight_map in (None, ["a"], {"a": {}}, {"a": 1}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InputError, match="names no files of weights"):
            publish.main(flags)
    for text, message in (('{"model_type": "vit"}', "type 'vit': AiT models alone"), ("{", "config.json")):
        (run_folder / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            publish.main(flags)
    assert not (tmp_path / "published").exists()


def test_card_in_another_encoding_keeps_its_bytes(run_folder):
    card = "# Père\n".encode("latin-1")
    (run_folder / "README.md").write_bytes(card)
    publish.complete_card(run_folder, run_folder, "user/mine")
    assert (run_folder / "README.md").read_bytes() == card


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\xff\0\0\0\0\0\0\0{", r"model.safetensors' is no whole safetensors file"),
        ("results.json", b"[", "results.json of .* is no JSON"),
        ("export.json", b"{}", "is an export .*or upload the folder as it is, by `hf upload`"),
    ],
)
def test_folder_of_which_a_part_is_no_use_is_refused(run_folder, name, content, message, tmp_path):
    """The card is there, so that nothing else would load the model."""
    (run_folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        publish.main([str(run_folder), "--output", str(tmp_path / "published")])
    assert not (tmp_path / "published").exists()


def test_adapter_that_peft_saved_alone_is_told_where_to_go(run_folder, tmp_path):
    (run_folder / "config.json").unlink()
    (run_folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="an adapter that peft saved: its model's `push_to_hub` publishes it"):
        publish.main([str(run_folder), "--output", str(tmp_path / "published")])


def test_folder_without_weights_is_refused(run_folder, tmp_path):
    (run_folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="safetensors weights are needed"):
        publish.main([str(run_folder), "--output", str(tmp_path / "published")])
    assert not (tmp_path / "published").exists()
