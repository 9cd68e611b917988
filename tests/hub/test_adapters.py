"""Adapters on a local Hub: every way to push one ends with a complete card, and what is pulled computes the same."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, load_file, save_file

from modeling_ait.card_ait import is_users_card


PUSH = """
import copy, json, sys
import peft, torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments, ViTImageProcessorPil
from examples import lora
from modeling_ait import AiTCardMixin, AiTForImageClassification

source, folder = sys.argv[1:]
images = load_file(folder + "/images.safetensors")["images"]
AiTForImageClassification.from_pretrained(source).push_to_hub("user/whole")
ViTImageProcessorPil(size={"height": 8, "width": 12}, do_convert_rgb=True).push_to_hub("user/whole")
config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier", "memory"])
logits, notes = {}, {}

class CompleteTrainer(AiTCardMixin, Trainer):
    pass

def load():
    torch.manual_seed(0)
    return AiTForImageClassification.from_pretrained("user/whole")

def train(model):
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW([weight for weight in model.train().parameters() if weight.requires_grad], lr=0.05)
    model(pixel_values=torch.randn(4, 3, 8, 12), labels=torch.arange(4) % 3).loss.backward()
    optimizer.step()
    return model.eval()

def push(name, model, act):
    act(model)
    with torch.no_grad():
        logits[name] = model.eval()(pixel_values=images).logits

def push_with_peft(model):
    model.push_to_hub("user/by-peft")
    notes["peft's"] = ModelCard.load("user/by-peft").data.to_dict()
    model.push_card("user/by-peft", revision=None)

def push_with_trainer(kind, name):
    data = [{"pixel_values": torch.randn(3, 8, 12), "labels": torch.tensor(index % 3)} for index in range(8)]
    def act(model):
        arguments = TrainingArguments(
            folder + "/" + name, push_to_hub=True, hub_model_id="user/" + name, max_steps=2, report_to="none",
            use_cpu=True, disable_tqdm=True, eval_strategy="epoch", save_steps=1, learning_rate=0.01,
        )
        trainer = kind(model, arguments, train_dataset=data, eval_dataset=data,
                       compute_metrics=lambda prediction: {"accuracy": 0.25})
        trainer.train()
        trainer.push_to_hub(dataset="Birds", dataset_tags="user/birds", license="mit")
        if kind is Trainer:
            notes["plain Trainer's"] = ModelCard.load("user/" + name).data.to_dict()
            model.push_card("user/" + name)
    return act

adapted = train(peft.get_peft_model(load(), copy.deepcopy(config)))
push("by-peft", adapted, push_with_peft)
adapted.save_pretrained(folder + "/saved")
adapted.save_card(folder + "/saved", "user/saved")
# peft writes into what is there.
adapted.save_pretrained(folder + "/saved")
notes["saved again"] = open(folder + "/saved/README.md").read()
adapted.save_card(folder + "/saved", "user/saved")
added = load()
added.add_adapter(copy.deepcopy(config))
push("added", train(added), lambda model: model.push_to_hub("user/added", tags=["birds"]))
alone = copy.deepcopy(config)
alone.modules_to_save = None
push("alone", train(peft.get_peft_model(load(), alone)), lambda model: (
    model.push_to_hub("user/alone"), model.push_card("user/alone")))
for name, kind in (("by-trainer", Trainer), ("by-complete-trainer", CompleteTrainer)):
    push(name, peft.get_peft_model(load(), copy.deepcopy(config)), push_with_trainer(kind, name))
lora.main([part for name, value in {
    "model_name_or_path": "user/whole", "dataset_name": "digits", "max_train_samples": 32, "max_eval_samples": 20,
    "max_steps": 2, "per_device_train_batch_size": 16, "learning_rate": 0.01, "report_to": "none", "use_cpu": "True",
    "disable_tqdm": "True", "lora_rank": 2, "output_dir": folder + "/by-script", "push_to_hub": "True",
    "hub_model_id": "user/by-script", "model_config": json.dumps({"image_size": 8})}.items()
    for part in ("--" + name, str(value))])
save_file(logits, folder + "/logits.safetensors")
print(json.dumps(notes))
"""
PULL = """
import json, sys
import torch
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

folder, *names = sys.argv[1:]
found = {}
for name in names:
    pixel_values = load_file(folder + "/images.safetensors")["small" if name == "by-script" else "images"]
    # As the card says.
    code = ModelCard.load("user/" + name).text.split("```python")[1].split("```")[0]
    scope = {"pixel_values": pixel_values}
    with torch.no_grad():
        exec(code.replace("model =", "model = adapted =") + "\\n", scope)
        outputs = scope["adapted"].eval()(pixel_values=pixel_values)
    found["logits." + name] = outputs.logits
    for index, memory in enumerate(scope["adapted"].get_memories()):
        found[f"memory.{name}.{index}"] = memory
    if name in ("added", "by-peft"):
        model = AutoModelForImageClassification.from_pretrained("user/" + name, trust_remote_code=True)
        with torch.no_grad():
            found["auto." + name] = model(pixel_values=pixel_values).logits
save_file(found, folder + "/pulled.safetensors")
"""
WAYS = ("by-peft", "added", "alone", "by-trainer", "by-complete-trainer", "by-script")


@pytest.fixture(scope="module")
def pushed(hub, run_python, make_trained, tmp_path_factory):
    """What one process pushed; its folder, its notes, and what another process without the package pulled."""
    folder = tmp_path_factory.mktemp("adapters")
    make_trained(0).save_pretrained(folder / "whole")
    generator = torch.Generator().manual_seed(7)
    images = {"images": torch.randn(2, 3, 8, 12, generator=generator), "small": torch.randn(2, 3, 8, 8)}
    save_file(images, folder / "images.safetensors")
    result = run_python(PUSH, folder / "whole", folder, hub=hub, has_package=True)
    assert result.returncode == 0, result.stderr
    pulled = run_python(PULL, folder, *WAYS, hub=hub)
    assert pulled.returncode == 0, pulled.stderr
    return folder, json.loads(result.stdout.splitlines()[-1]), load_file(folder / "pulled.safetensors")


def read_card(hub, name):
    return hub.files(f"user/{name}")["README.md"].decode()


@pytest.mark.parametrize("name", WAYS)
def test_card_of_an_adapter_is_complete(name, hub, pushed):
    text = read_card(hub, name)
    card, tags = ModelCard(text), ModelCard(text).data.tags
    assert not is_users_card(text)
    assert (card.data.library_name, card.data.base_model) == ("peft", "user/whole")
    assert card.data.license == ("mit" if "trainer" in name else "apache-2.0")
    assert card.data.pipeline_tag == "image-classification"
    assert {"ait", "custom_code", "lora", "image-classification", "base_model:adapter:user/whole"} <= {*tags}
    assert len(tags) == len({*tags})
    has_memory = "`modules_to_save` names `memory`" in re.sub(r"\s+", " ", card.text)
    assert has_memory == (name != "alone")
    assert "inference reads" in card.text.lower() and "{" not in card.text.replace("`{", "").split("## Training")[0]


def test_what_peft_and_a_plain_trainer_write_is_incomplete(pushed):
    """Or the methods that complete it are not needed any more."""
    notes = pushed[1]
    assert notes["peft's"]["library_name"] == "transformers" and "license" not in notes["peft's"]
    assert "pipeline_tag" not in notes["plain Trainer's"]
    # What those cards can get from the model itself.
    assert {"ait", "custom_code", "image-classification"} <= {*notes["plain Trainer's"]["tags"]}


@pytest.mark.parametrize("name", ["by-trainer", "by-complete-trainer"])
def test_card_of_a_trained_adapter_keeps_what_the_trainer_knows(name, hub, pushed):
    card = ModelCard(read_card(hub, name))
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_type, result.dataset_name) == (0.25, "user/birds", "Birds")
    assert (card.data.model_name, card.data.metrics) == (f"user/{name}", ["accuracy"])
    assert card.data.datasets == ["user/birds"]
    assert "- learning_rate: 0.01" in card.text and "Trained on the Birds dataset" in card.text
    assert "More information needed" not in card.text


def test_card_of_the_script_has_data_recipe_and_metrics(hub, pushed):
    files = hub.files("user/by-script")
    assert files.keys() == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "config.json", "example.png"),
        *("preprocessor_config.json", "results.json"),
    }
    card = ModelCard(files["README.md"].decode())
    (result,) = card.data.eval_results
    assert result.metric_value == json.loads(files["results.json"])["accuracy"]
    assert (result.dataset_name, result.dataset_split) == ("digits", "test")
    assert "examples.lora" in card.text and "| Adapter of | `user/whole` |" in card.text
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/whole"


def test_card_of_a_saved_adapter_takes_the_place_of_the_stub(pushed):
    assert not is_users_card(pushed[1]["saved again"]) and "- PEFT" in pushed[1]["saved again"]
    assert is_users_card(pushed[1]["saved again"].replace("# user/saved", "# Mine"))
    card = ModelCard.load(pushed[0] / "saved" / "README.md")
    assert (card.data.base_model, card.data.license) == ("user/whole", "apache-2.0")
    assert "More Information Needed" not in card.text and "user/saved" in card.text


def test_pulled_adapter_computes_the_same_in_a_process_without_the_package(hub, pushed):
    folder, _, pulled = pushed
    for name, logits in load_file(folder / "logits.safetensors").items():
        assert torch.equal(pulled[f"logits.{name}"], logits), name
    for name in ("by-peft", "added"):
        assert torch.equal(pulled[f"auto.{name}"], pulled[f"logits.{name}"])
    for name in set(WAYS) - {"alone"}:
        weights = load(hub.files(f"user/{name}")["adapter_model.safetensors"])
        for index in range(2):
            memory = weights[f"base_model.model.ait.memory.layer_{index}"]
            assert torch.equal(pulled[f"memory.{name}.{index}"], memory), name
    assert pulled["logits.by-script"].shape == (2, 10)
