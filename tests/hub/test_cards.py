"""Pushes with complete cards, pushes that are refused or cut, and cards that somebody wrote, on a local Hub."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load

from modeling_ait.card_ait import is_draft, is_users_card, make_card

from .server import Repository


PUSH = """
import json, sys
from pathlib import Path
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import Trainer, TrainingArguments, ViTImageProcessorPil
from examples.training.trainer import AiTTrainer
from modeling_ait import AiTForImageClassification

first, folder = sys.argv[1:]
api, notes = HfApi(), {}
model = AiTForImageClassification.from_pretrained(first)

def attempt(name, **options):
    try:
        model.push_to_hub(options.pop("repo_id", f"user/{name}"), **options)
    except Exception as error:
        notes[name] = [type(error).__name__, str(error), *getattr(error, "__notes__", [])]

# As it was loaded: with the card of its folder.
model.push_to_hub("user/carded")
# The stub of the image processor gives way, whichever comes first.
processor = ViTImageProcessorPil(size={"height": 8, "width": 12})
processor.push_to_hub("user/processor-first")
model.push_to_hub("user/processor-first", private=True, max_shard_size="8KB", revision="named")
model.push_to_hub("user/processor-last", create_pr=True, commit_description="All of it")
model.push_to_hub("user/processor-last", tags=["birds"])
processor.push_to_hub("user/processor-last")

# Cut in the middle, before anything was there and later.
attempt("cut")
notes["files of a cut push"] = api.list_repo_files("user/cut")
attempt("cut, again", repo_id="user/cut")

tuned = AiTForImageClassification.from_pretrained("user/carded").train()
optimizer = torch.optim.AdamW(tuned.parameters(), lr=0.05)
tuned(torch.randn(4, 3, 8, 12), labels=torch.arange(4) % 3).loss.backward()
optimizer.step()
tuned.push_to_hub("user/tuned")

mine = b"---\\nlicense: mit   # mine\\n---\\n# Mine\\n"
api.upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id="user/tuned")
tuned.push_to_hub("user/tuned")
tuned.save_pretrained(folder + "/saved", push_to_hub=True, repo_id="user/tuned", revision="other", tags=["birds"])

attempt("wrong-token", token="hf_" + "wrong" * 6)
attempt("not mine", repo_id="other/model")
attempt("no name", repo_id="a/b/c")

data = [{"pixel_values": torch.randn(3, 8, 12), "labels": torch.tensor(index % 3)} for index in range(8)]
for name, kind in (("trainer", AiTTrainer), ("plain-trainer", Trainer)):
    arguments = TrainingArguments(
        folder + "/" + name, push_to_hub=True, hub_model_id="user/" + name, max_steps=2, report_to="none",
        use_cpu=True, disable_tqdm=True, eval_strategy="epoch", hub_private_repo=True, save_steps=1,
    )
    trainer = kind(
        AiTForImageClassification.from_pretrained("user/carded"), arguments, train_dataset=data, eval_dataset=data,
        processing_class=processor, compute_metrics=lambda prediction: {"accuracy": 0.25},
    )
    trainer.train()
    trainer.push_to_hub(dataset="Birds", dataset_tags="user/birds")
    if kind is Trainer:
        # A folder with the Trainer's card, pushed as it is.
        trainer.model.save_pretrained(folder + "/kept")
        (Path(folder, "kept", "README.md")).write_bytes(Path(folder, name, "README.md").read_bytes())
        AiTForImageClassification.from_pretrained(folder + "/kept").push_to_hub("user/kept")
        notes["plain Trainer's"] = ModelCard.load("user/" + name).content
        trainer.model.push_card("user/" + name)
        # Its next push overwrites the card, and a card of the user's stays.
        trainer.push_to_hub(language="de")
        trainer.model.push_card("user/" + name)
        api.create_branch("user/" + name, branch="mine")
        api.upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id="user/" + name, revision="mine")
        notes["not completed"] = trainer.model.push_card("user/" + name, revision="mine")
print(json.dumps(notes))
"""


@pytest.fixture(scope="module")
def pushed(hub, run_python, make_trained, tmp_path_factory):
    """What one process pushed and was refused; its folder, and the model that it began with."""
    folder = tmp_path_factory.mktemp("cards")
    model = make_trained(0)
    model.save_pretrained(folder / "first")
    card = make_card(model, "first", "user/base").replace("# first", "# Known results\n\nAccuracy: 99 %")
    (folder / "first" / "README.md").write_text(card, encoding="utf-8")
    before = {path.name: path.read_bytes() for path in (folder / "first").iterdir()}
    hub.repositories["other/model"] = Repository("other/model", False)
    hub.broken_path, hub.num_broken = re.compile("^/api/models/user/cut/commit/"), 1
    try:
        result = run_python(PUSH, folder / "first", folder, hub=hub, has_package=True)
    finally:
        hub.broken_path = hub.num_broken = None
    assert result.returncode == 0, result.stderr
    assert before == {path.name: path.read_bytes() for path in (folder / "first").iterdir()}
    assert "wrongwrong" not in result.stderr + result.stdout
    return folder, model, json.loads(result.stdout.splitlines()[-1]), card


def read_card(hub, repo_id, revision="main"):
    return hub.files(repo_id, revision)["README.md"].decode()


def test_model_as_it_was_loaded_takes_its_card_along(hub, pushed):
    assert read_card(hub, "user/carded") == pushed[3]


def test_stub_gives_way_to_a_complete_card(hub, pushed):
    # The card of the folder is somebody's.
    assert "Known results" in read_card(hub, "user/processor-first", "named")
    assert "automatically generated" in read_card(hub, "user/processor-first")
    files = hub.files("user/processor-first", "named")
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    last = ModelCard(read_card(hub, "user/processor-last"))
    assert "birds" in last.data.tags and last.data.license == "apache-2.0" and last.data.base_model == "user/base"
    assert "preprocessor_config.json" in hub.files("user/processor-last")
    assert "model.safetensors" in hub.files("user/processor-last", "refs/pr/1")


def test_cut_push_leaves_nothing_and_a_second_one_completes_it(hub, pushed):
    _, model, notes, _ = pushed
    assert notes["files of a cut push"] == []
    assert notes["cut"][2].endswith("The Hub has a fault of its own (500): call the same again later.")
    assert "cut, again" not in notes
    weights = load(hub.files("user/cut")["model.safetensors"])
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_fine_tuned_model_names_what_it_was_made_from(hub, pushed):
    commits = list(hub.repositories["user/tuned"].commits.values())
    card = ModelCard(commits[1]["README.md"].content.decode())
    assert card.data.base_model == "user/carded" and card.data.pipeline_tag == "image-classification"
    assert "Known results" not in card.text and card.data.eval_results is None


def test_card_that_somebody_wrote_stays(hub, pushed):
    assert read_card(hub, "user/tuned") == "---\nlicense: mit   # mine\n---\n# Mine\n"
    tagged = ModelCard(read_card(hub, "user/tuned", "other"))
    assert tagged.data.to_dict() == {"license": "mit", "tags": ["birds"]} and "# Mine" in tagged.text
    assert (pushed[0] / "saved" / "model.safetensors").exists()


def test_refusals_say_what_to_do_in_one_line(pushed):
    notes = pushed[2]
    assert "hf auth login" in notes["wrong-token"][-1] and "user/wrong-token" in notes["wrong-token"][-1]
    assert "may not write there" in notes["not mine"][-1]
    assert "arguments cannot work" in notes["no name"][-1]
    assert all("\n" not in notes[name][-1] for name in ("cut", "wrong-token", "not mine", "no name"))


def test_card_of_a_plain_trainer_is_completed_afterwards(hub, pushed):
    notes = pushed[2]
    draft = ModelCard(notes["plain Trainer's"])
    assert is_draft(notes["plain Trainer's"]) and draft.data.license is None
    first, second = (
        ModelCard(commit["README.md"].content.decode())
        for commit in hub.repositories["user/plain-trainer"].commits.values()
        if "README.md" in commit and b"written by modeling_ait" in commit["README.md"].content
    )
    for card in (first, second, ModelCard(read_card(hub, "user/kept"))):
        assert (card.data.license, card.data.base_model) == ("apache-2.0", "user/carded")
        assert card.data.pipeline_tag == "image-classification" and "generated_from_trainer" in card.data.tags
        assert "learning_rate" in card.text and "inference reads them and never writes" in card.text
        assert "More information needed" not in card.text and "automatically" not in card.text
    (result,) = first.data.eval_results
    assert (result.metric_value, result.dataset_type, result.dataset_name) == (0.25, "user/birds", "Birds")
    (result,) = second.data.eval_results
    assert (second.data.language, result.dataset_name) == (["de"], "unknown")
    assert notes["not completed"] is None and "# Mine" in read_card(hub, "user/plain-trainer", "mine")


def test_every_push_of_a_training_opens(hub, pushed):
    commits = [commit for commit in hub.repositories["user/trainer"].commits.values() if "config.json" in commit]
    assert len(commits) > 1
    for commit in commits:
        assert {"model.safetensors", "modeling_ait.py", "README.md"} <= commit.keys()
        assert ModelCard(commit["README.md"].content.decode()).data.license == "apache-2.0"


def test_trainer_pushes_a_complete_card(hub, pushed):
    text = read_card(hub, "user/trainer")
    card = ModelCard(text)
    assert not is_users_card(text)
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_type, result.dataset_name) == (0.25, "user/birds", "Birds")
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "apache-2.0",
        "user/carded",
        ["user/birds"],
    )
    assert hub.repositories["user/trainer"].is_private
    for name in ("trainer", "plain-trainer"):
        assert {"model.safetensors", "modeling_ait.py", "card_ait.py"} <= hub.files(f"user/{name}").keys()
