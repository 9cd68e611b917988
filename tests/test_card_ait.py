"""Model cards: complete for huggingface_hub's own parsers, and never written over somebody's work."""

import ast
import re

import peft
import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers.modelcard import TrainingSummary

from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel
from modeling_ait.card_ait import (
    STUB,
    advise,
    choose_card,
    explain_refusals,
    find_adapter,
    find_base_model,
    is_draft,
    is_hub_id,
    is_users_card,
    make_card,
    rename_card,
    seal_card,
)
from modeling_ait.saving_ait import holds_weights
from modeling_ait.trainer_ait import complete_card


MINE = "---\nlicense: mit   # of mine\n---\n# Mine\n"
RESULT = EvalResult("image-classification", "user/birds", "Birds", "accuracy", 0.25, dataset_split="test")


@pytest.mark.parametrize(
    ("model_class", "task", "fields"),
    [
        (AiTForImageClassification, "image-classification", {}),
        (AiTForRelationalReasoning, "visual-question-answering", {"question_size": 5}),
        (AiTModel, "image-feature-extraction", {}),
    ],
)
def test_card_is_complete(model_class, task, fields, make_model, tmp_path):
    model = make_model(model_class, **fields)
    known = {"eval_results": [RESULT], "metrics": ["accuracy"], "datasets": ["user/birds"]}
    (tmp_path / "README.md").write_text(make_card(model, "user/mine", "user/base", **known), encoding="utf-8")
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == task and {"ait", "custom_code", task} <= {*metadata["tags"]}
    assert metadata["base_model"] == "user/base" and metadata["datasets"] == ["user/birds"]
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results == [RESULT] and card.data.model_name == "user/mine"
    assert "| accuracy on Birds, split test | 0.25 |" in card.text and "made from `user/base`" in card.text
    assert "inference reads them and never writes" in card.text and f"{model.num_parameters():,}" in card.text
    (code,) = re.findall("```python\n(.*?)```", card.text, flags=re.DOTALL)
    ast.parse(code)
    assert ("question=question" in code) == bool(fields)


def test_renamed_card_has_the_name_everywhere_and_is_nobodys_still(make_model):
    known = {"eval_results": [RESULT], "metrics": ["accuracy"]}
    before = make_card(make_model(), "run-1", "user/base", **known)
    after = rename_card(before, "user/birds-ait")
    assert before.replace("run-1", "user/birds-ait").split("<!--")[0] == after.split("<!--")[0]
    assert before.count("run-1") == 3 and not is_users_card(after)
    assert ModelCard(after).data.model_name == "user/birds-ait"
    for kept in (MINE, before.replace("Research", "My research"), "# No card of ours\n"):
        assert rename_card(kept, "user/birds-ait") == kept
    # What would need quotes in the code.
    assert rename_card(before, 'a "name"') == before


def test_card_without_more_knowledge_claims_none(make_model):
    card = ModelCard(make_card(make_model(), "user/mine", "/a/folder"))
    assert card.data.base_model is None and card.data.eval_results is None and card.data.metrics is None


def test_own_card_is_told_from_one_that_somebody_changed(make_model):
    card = make_card(make_model(), "user/mine")
    assert not is_users_card(card)
    # As a push of the image processor leaves it.
    assert not is_users_card(str(ModelCard(card)))
    assert seal_card(card) == card
    for changed in (
        card.replace("# user/mine", "# A name"),
        card.replace("license: apache-2.0", "license: mit"),
        MINE,
    ):
        assert is_users_card(changed)
    assert is_users_card("---\na: [\n---\n") and is_users_card("")
    stub = str(ModelCard.from_template(ModelCardData(tags=["x"]), model_description=f"{STUB} {AUTOMATIC}"))
    assert not is_users_card(stub)
    assert is_users_card(stub.replace("[More Information Needed]", "I", 1))


AUTOMATIC = "This model card has been automatically generated."


def write_draft(**fields):
    """A card as the installed transformers writes it for a Trainer."""
    results = {"Loss": 0.5, "Accuracy": 0.25, "F1 Score": 0.75}
    summary = {"model_name": "mine", "tags": ["generated_from_trainer"], "eval_results": results, "eval_lines": []}
    return TrainingSummary(**{**summary, "hyperparameters": {"seed": 42}, **fields}).to_model_card()


def test_draft_of_a_trainer_is_told_from_a_card_that_somebody_filled_in():
    draft = write_draft()
    assert is_draft(draft) and not is_users_card(draft)
    filled = draft.replace("More information needed", "It is for birds.", 1)
    assert not is_draft(filled) and is_users_card(filled)


@pytest.mark.parametrize("finetuned_from", [None, "", "user/base"])
def test_draft_is_completed_with_what_it_knows(make_model, finetuned_from):
    own = make_card(make_model(), "user/mine")
    data = {"dataset": "Birds", "dataset_tags": "user/birds", "finetuned_from": finetuned_from}
    text = complete_card(own, write_draft(license="mit", language="de", **data), "user/mine")
    card = ModelCard(text)
    assert not is_users_card(text)
    assert (card.data.license, card.data.language, card.data.datasets) == ("mit", ["de"], ["user/birds"])
    assert (card.data.base_model, card.data.pipeline_tag) == (finetuned_from or None, "image-classification")
    (result,) = card.data.eval_results
    assert (card.data.model_name, result.metric_type, result.metric_value) == ("user/mine", "accuracy", 0.25)
    assert (result.dataset_type, result.dataset_name) == ("user/birds", "Birds")
    assert (
        "Trained on the Birds dataset" in card.text and "- F1 Score: 0.75" in card.text and "- seed: 42" in card.text
    )
    assert "More information needed" not in card.text and "](https://huggingface.co/)" not in card.text


def test_draft_that_knows_nothing_claims_nothing(make_model):
    card = ModelCard(complete_card(make_card(make_model(), "user/mine"), write_draft(eval_results=None), "user/mine"))
    assert card.data.license == "apache-2.0" and card.data.eval_results is None
    assert "Trained on an unknown dataset." in card.text and "evaluation set" not in card.text


def test_metrics_that_are_no_numbers_are_no_results(make_model):
    metrics = {"Accuracy": float("nan"), "F1": [0.5, 0.25], "Precision": -1.5, "Recall": "none"}
    card = ModelCard(
        complete_card(make_card(make_model(), "user/mine"), write_draft(eval_results=metrics), "user/mine")
    )
    assert [(result.metric_name, result.metric_value) for result in card.data.eval_results] == [("Precision", -1.5)]


def test_card_of_an_adapter_names_no_folder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    model = AiTForImageClassification.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.save_card(tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "this is an adapter of `base`" in text
    assert ModelCard(text).data.base_model is None and "no memories of its own" in text
    (code,) = re.findall("```python\n(.*?)```", text, flags=re.DOTALL)
    ast.parse(code)
    assert find_adapter(adapted.merge_and_unload()) is None


def test_saved_card_leaves_one_that_somebody_wrote(make_model, tmp_path):
    (tmp_path / "README.md").write_text(MINE)
    make_model().save_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == MINE
    make_model().save_card(tmp_path / "new", "user/mine")
    assert not is_users_card((tmp_path / "new" / "README.md").read_text(encoding="utf-8"))


def test_card_of_a_user_stays(make_model):
    own, newer = make_card(make_model(), "user/mine"), make_card(make_model(), "user/mine", "user/base")
    assert choose_card(newer, None, []) == newer
    assert choose_card(newer, own, []) == newer
    assert choose_card(newer, MINE, []) is None
    # Both are somebody's: the one at hand is the newer.
    assert choose_card("# Also mine\n", MINE, []) == "# Also mine\n"
    tagged = choose_card(newer, MINE, ["birds"])
    assert ModelCard(tagged).data.to_dict() == {"license": "mit", "tags": ["birds"]} and "# Mine" in tagged
    tagged = choose_card(newer, own, ["birds", "ait"])
    assert ModelCard(tagged).data.tags.count("ait") == 1 and "birds" in ModelCard(tagged).data.tags
    assert not is_users_card(tagged)


def test_base_model_is_found_in_the_card_of_a_folder(make_model, tmp_path, monkeypatch):
    assert find_base_model("user/model") == "user/model"
    assert find_base_model(str(tmp_path)) is None and find_base_model(None) is None
    (tmp_path / "README.md").write_text(make_card(make_model(), "a", "user/base"))
    assert find_base_model(str(tmp_path)) == "user/base"
    # A model that was not loaded has no name, which is not the folder where one happens to be.
    monkeypatch.chdir(tmp_path)
    assert find_base_model("") is None and find_base_model(None) is None


def test_hub_ids_are_told_from_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("user/model-1.0")
    (tmp_path / "user" / "model").mkdir(parents=True)
    for name in ("user/model", "./model", "a/b/c", "model", "../model", None, "user/mo del"):
        assert not is_hub_id(name)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "2KB"}])
def test_weights_of_a_folder_are_compared_to_the_last(shards, make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path, **shards)
    assert holds_weights(str(tmp_path), model)
    assert not holds_weights(str(tmp_path / "nowhere"), model)
    assert not holds_weights(str(tmp_path), make_model(AiTModel))
    assert not holds_weights(str(tmp_path), make_model().to(torch.bfloat16))
    with torch.no_grad():
        next(buffer for name, buffer in model.named_buffers() if "memor" in name)[0, 0] += 1
    assert not holds_weights(str(tmp_path), model)


class Response:
    def __init__(self, status):
        self.status_code = status


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "hf auth login"),
        (403, "may not write there"),
        (404, "no such repository or revision"),
        (409, "name is taken"),
        (503, "fault of its own (503)"),
        (418, "status 418"),
    ],
)
def test_refusal_of_the_hub_says_what_to_do(status, said):
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = Response(status)
    assert said in advise_of(status) and "\n" not in advise_of(status)
    with pytest.raises(HfHubHTTPError) as caught, explain_refusals("user/mine"):
        raise error
    assert caught.value.__notes__ == [f"'user/mine' was not pushed, and no file here has changed. {advise(error)}"]


def advise_of(status):
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = Response(status)
    return advise(error)


def test_missing_network_says_so():
    assert "cannot be reached" in advise(ConnectionError("nowhere"))
    assert advise(LocalTokenNotFoundError("none")) == advise_of(401) and "arguments" in advise(ValueError("a/b/c"))
