"""Adapting a model, all of it or a part, and what adapters, device maps and offloading do with the memory."""

import copy

import peft
import pytest
import torch
from transformers import Trainer, TrainingArguments, set_seed

from modeling_ait import AiTForImageClassification
from modeling_ait.memory_ait import make_initial_memory


LABELS = torch.tensor([0, 1, 2, 1])


def copy_memories(model):
    return [memory.clone() for memory in model.ait.memories]


def has_moved(model, before):
    return [not torch.equal(now, old) for now, old in zip(model.ait.memories, before, strict=True)]


def predict(model, images, **options):
    with torch.no_grad():
        return model.eval()(pixel_values=images, **options).logits


# Adapters


def adapt(model, *modules_to_save, seed=0):
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier", *modules_to_save]
    )
    return peft.get_peft_model(model, config)


def train_steps(model, images, number=3):
    parameters = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(number):
        model(pixel_values=images, labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def list_adapted(model, targets):
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    names = {name.split(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    return {".".join(name.split(".")[-2:]) for name in names if ".layers." in name}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "v_proj"], {"attention.q_proj", "attention.v_proj"}),
        (["q_proj", "k_proj", "v_proj", "o_proj"], {f"attention.{name}_proj" for name in "qkvo"}),
        (["fc1", "fc2"], {"mlp.fc1", "mlp.fc2"}),
        (r".*\.(q_proj|v_proj)", {"attention.q_proj", "attention.v_proj"}),
        (["query_proj", "pattern_proj"], {"write.query_proj", "retrieve.pattern_proj"}),
    ],
)
def test_names_of_targets_catch_the_workspace_only_when_they_are_its_own(make_model, targets, expected):
    assert list_adapted(make_model(), targets) == expected


def test_all_linear_catches_the_workspace_too_and_trains_it(make_model, make_images):
    assert {"write.query_proj", "write.key_proj", "write.value_proj", "write.output_proj", "retrieve.pattern_proj"} < (
        list_adapted(make_model(), "all-linear")
    )
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules="all-linear", exclude_modules=["classifier"], init_lora_weights=False)
    adapted = peft.get_peft_model(make_model(), config)
    adapted.train()(pixel_values=make_images(), labels=LABELS).loss.backward()
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("saves_memory", [True, False])
def test_adapter_comes_back_with_the_same_outputs_and_memories(make_model, make_images, tmp_path, saves_memory):
    model, images = make_model(), make_images()
    base = copy.deepcopy(model)
    initial = copy_memories(base)
    adapted = train_steps(adapt(model, *(["memory"] if saves_memory else [])), images)
    # The adapter's own memories are written; without them the base's stay as they were.
    assert all(has_moved(adapted.base_model.model, initial)) == saves_memory
    adapted.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(pixel_values=images).logits, adapted(pixel_values=images).logits)
    assert not any(has_moved(reloaded.base_model.model, copy_memories(adapted.base_model.model)))


def test_disabled_adapter_is_the_base_model_with_its_memories(make_model, make_images):
    model, images = make_model().eval(), make_images()
    with torch.no_grad():
        expected = model(images).logits
    adapted = train_steps(adapt(model, "memory"), images)
    with torch.no_grad(), adapted.disable_adapter():
        assert torch.equal(adapted(pixel_values=images).logits, expected)
        # Nor does a forward in training mode write the base's memories then.
        adapted.train()(pixel_values=images)
        assert torch.equal(adapted.eval()(pixel_values=images).logits, expected)


def test_two_adapters_keep_their_own_memories(make_model, make_images):
    images = make_images()
    adapted = train_steps(adapt(make_model(), "memory"), images)
    with torch.no_grad():
        first = adapted(pixel_values=images).logits
    adapted.add_adapter("second", adapted.peft_config["default"])
    adapted.set_adapter("second")
    train_steps(adapted, make_images(seed=3))
    with torch.no_grad():
        second = adapted(pixel_values=images).logits
        adapted.set_adapter("default")
        assert torch.equal(adapted(pixel_values=images).logits, first)
        adapted.set_adapter("second")
        assert torch.equal(adapted(pixel_values=images).logits, second)
    assert not torch.equal(first, second)


def test_merged_adapter_keeps_its_memories(make_model, make_images):
    images = make_images()
    adapted = train_steps(adapt(make_model(), "memory"), images)
    expected, memories = predict(adapted, images), copy_memories(adapted.base_model.model)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(predict(merged, images), expected, rtol=1e-5, atol=1e-5)
    assert not any(has_moved(merged, memories))


def test_memories_of_an_adapter_are_saved_and_loaded_alone(make_model, make_images, tmp_path):
    model, images = make_model(), make_images()
    initial = copy_memories(model)
    adapted = train_steps(adapt(model, "memory"), images)
    expected = predict(adapted, images)
    adapted.save_memories(tmp_path / "memories.safetensors")
    adapted.reset_memories()
    assert not torch.equal(predict(adapted, images), expected)
    adapted.load_memories(tmp_path / "memories.safetensors")
    assert torch.equal(predict(adapted, images), expected)
    with adapted.disable_adapter():
        assert not any(has_moved(adapted.base_model.model, initial))


# The integration of transformers


@pytest.fixture
def adapted_folders(make_model, make_images, tmp_path):
    """A base model and its adapter, each in a folder, and the logits of both."""
    images = make_images()
    make_model().save_pretrained(tmp_path / "base")
    model = AiTForImageClassification.from_pretrained(tmp_path / "base")
    base_logits = predict(model, images)
    torch.manual_seed(0)
    model.add_adapter(
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier", "memory"])
    )
    train_steps(model, images)
    model.save_pretrained(tmp_path / "adapter")
    adapted_logits = predict(model, images)
    assert not torch.equal(base_logits, adapted_logits)
    model.disable_adapters()
    assert torch.equal(predict(model, images), base_logits)
    initial = [make_initial_memory(memory.shape, index) for index, memory in enumerate(model.ait.memories)]
    assert not any(has_moved(model, initial))
    model.enable_adapters()
    assert torch.equal(predict(model, images), adapted_logits)
    return tmp_path, base_logits, adapted_logits, copy_memories(model)


@pytest.mark.parametrize("way", ["from_pretrained", "load_adapter", "peft"])
def test_added_adapter_comes_back_with_its_memories(adapted_folders, make_images, way):
    folder, _, expected, memories = adapted_folders
    if way == "from_pretrained":
        model = AiTForImageClassification.from_pretrained(folder / "adapter")
    else:
        model = AiTForImageClassification.from_pretrained(folder / "base")
        if way == "load_adapter":
            model.load_adapter(str(folder / "adapter"))
        else:
            model = peft.PeftModel.from_pretrained(model, folder / "adapter").base_model.model
    assert torch.equal(predict(model, make_images()), expected)
    assert not any(has_moved(model, memories))


def test_two_added_adapters_are_swapped_with_their_memories(adapted_folders, make_images):
    folder, _, expected, memories = adapted_folders
    images = make_images()
    model = AiTForImageClassification.from_pretrained(folder / "base")
    model.load_adapter(str(folder / "adapter"), adapter_name="first")
    model.add_adapter(
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier", "memory"]), "second"
    )
    model.set_adapter("second")
    train_steps(model, make_images(seed=3))
    second = predict(model, images)
    model.set_adapter("first")
    assert torch.equal(predict(model, images), expected)
    assert not any(has_moved(model, memories))
    model.set_adapter("second")
    assert torch.equal(predict(model, images), second)
    assert all(has_moved(model, memories))


# The Trainer


def train_with_trainer(model, folder, images, resume=None, max_steps=4):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=max_steps, save_steps=2, report_to="none", use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=2, learning_rate=1e-2, seed=0, lr_scheduler_type="constant",
    )  # fmt: skip
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, LABELS)]
    Trainer(model=model, args=arguments, train_dataset=data).train(resume_from_checkpoint=resume)
    return model


def adapt_anew(make_model):
    set_seed(0)
    return adapt(make_model(), "memory")


def test_trainer_resumes_an_adapter_bit_equal_with_its_memories(make_model, make_images, tmp_path):
    images = make_images()
    whole = train_with_trainer(adapt_anew(make_model), tmp_path / "whole", images)
    train_with_trainer(adapt_anew(make_model), tmp_path / "parts", images, max_steps=2)
    checkpoint = tmp_path / "parts" / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").exists() and not (checkpoint / "model.safetensors").exists()
    resumed = train_with_trainer(adapt_anew(make_model), tmp_path / "parts", images, resume=str(checkpoint))
    state, other = whole.state_dict(), resumed.state_dict()
    assert state.keys() == other.keys()
    assert any("memory.modules_to_save" in name for name in state)
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name


def test_workspace_alone_trains_and_everything_else_stays(make_model, make_images, tmp_path):
    model, images = make_model(), make_images()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".workspace." in name
    before, memories = {name: tensor.clone() for name, tensor in model.named_parameters()}, copy_memories(model)
    train_with_trainer(model, tmp_path, images)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (".workspace." not in name), name
    assert all(has_moved(model, memories))


def test_lora_adapts_a_model_to_another_number_of_labels(make_model, make_images, tmp_path):
    make_model().save_pretrained(tmp_path / "base")

    def load():
        return AiTForImageClassification.from_pretrained(tmp_path / "base", num_labels=5, ignore_mismatched_sizes=True)

    adapted = train_steps(adapt(load(), "memory"), make_images())
    adapted.save_pretrained(tmp_path / "adapter")
    expected = predict(adapted, make_images())
    assert expected.shape == (4, 5)
    # The new classifier of the base is random, the adapter's own takes its place.
    reloaded = peft.PeftModel.from_pretrained(load(), tmp_path / "adapter")
    assert torch.equal(predict(reloaded, make_images()), expected)


def test_adapter_and_memories_go_with_another_image_size(make_model, make_images, tmp_path):
    larger = torch.randn(4, 3, 16, 8)
    model = make_model()
    base = copy.deepcopy(model)
    adapted = train_steps(adapt(model, "memory"), make_images())
    adapted.save_pretrained(tmp_path)
    adapted.save_memories(tmp_path / "memories.safetensors")
    expected = predict(adapted, larger, interpolate_pos_encoding=True)
    base.resize_positions((16, 8))
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(predict(reloaded, larger), expected, rtol=1e-5, atol=1e-5)
    reloaded.load_memories(tmp_path / "memories.safetensors")
    assert not any(has_moved(reloaded.base_model.model, copy_memories(adapted.base_model.model)))


# Device maps


MAPS = {
    "split": {"ait.layers.0": "cpu"},
    "layer on disk": {"ait.layers.0": "disk"},
    "memory on disk": {"ait.memory": "disk"},
    "all but the classifier on disk": {"ait": "disk", "classifier": "cpu"},
    "all on disk": {"": "disk"},
}


@pytest.mark.parametrize("name", MAPS)
def test_device_map_gives_the_same_logits_and_memories(make_model, make_images, tmp_path, name):
    model, images = make_model().train(), make_images()
    model(images)
    model.eval().save_pretrained(tmp_path / "model")
    parts = ["ait.embeddings", "ait.layers.0", "ait.layers.1", "ait.memory", "ait.layernorm", "classifier"]
    is_whole = {"ait", ""} & MAPS[name].keys()
    device_map = MAPS[name] if is_whole else {**dict.fromkeys(parts, "cpu"), **MAPS[name]}
    loaded = AiTForImageClassification.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    torch.testing.assert_close(predict(loaded, images), predict(model, images), rtol=0, atol=1e-6)
    before = loaded.get_memories()
    predict(loaded, images, update_memory=True)
    predict(model, images, update_memory=True)
    assert all(has_moved(loaded, before))
    for one, other in zip(loaded.get_memories(), model.get_memories(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    # A file passes between the two, whose weights cannot be read here.
    loaded.save_memories(tmp_path / "memories.safetensors")
    model.load_memories(tmp_path / "memories.safetensors")
    loaded.reset_memories()
    loaded.load_memories(tmp_path / "memories.safetensors")
    assert torch.equal(loaded.get_memories()[1], model.get_memories()[1])
    torch.testing.assert_close(predict(loaded, images), predict(model, images), rtol=0, atol=1e-6)
