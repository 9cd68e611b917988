"""The memory as a module of its own: what writes it and what keeps it."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_ait import AiTConfig, AiTForImageClassification, AiTModel, saving_ait
from modeling_ait.memory_ait import make_initial_memory


LABELS = torch.tensor([0, 1, 2, 1])


def copy_memories(model):
    return [memory.clone() for memory in model.ait.memories]


def has_moved(model, before):
    return [not torch.equal(now, old) for now, old in zip(model.ait.memories, before, strict=True)]


def test_memory_holds_one_float32_buffer_for_each_layer_and_nothing_else(make_model):
    memory = make_model().ait.memory
    assert {name: (buffer.dtype, tuple(buffer.shape)) for name, buffer in memory.named_buffers()} == {
        "layer_0": (torch.float32, (3, 4)),
        "layer_1": (torch.float32, (3, 4)),
    }
    assert not list(memory.parameters())


def test_reading_gives_copies(make_model):
    model = make_model()
    before = copy_memories(model)
    for copied in model.ait.memory():
        copied.zero_()
    assert not any(has_moved(model, before))


@pytest.mark.parametrize("get_owner", [lambda model: model, lambda model: model.ait], ids=["classifier", "base"])
def test_reset_memories_gives_the_initial_ones(make_model, make_images, get_owner):
    model = make_model().train()
    model(make_images())
    addresses = [memory.data_ptr() for memory in model.ait.memories]
    get_owner(model).reset_memories()
    for index, memory in enumerate(model.ait.memories):
        assert torch.equal(memory, make_initial_memory(memory.shape, index))
    assert [memory.data_ptr() for memory in model.ait.memories] == addresses


def test_reset_memories_works_on_a_loaded_model(make_model, make_images, tmp_path):
    model = make_model().train()
    model(make_images())
    model.save_pretrained(tmp_path)
    loaded = AiTForImageClassification.from_pretrained(tmp_path)
    loaded.reset_memories()
    assert torch.equal(loaded.ait.memories[1], make_initial_memory(torch.Size((3, 4)), 1))


# The switch


def test_switch_of_the_config_stops_training_from_writing_and_the_call_wins(make_model, make_images):
    assert AiTConfig().update_memory is True
    model = make_model(update_memory=False).train()
    before = copy_memories(model)
    assert model(make_images(), labels=LABELS).balance_loss is None
    assert not any(has_moved(model, before))
    assert model(make_images(), update_memory=True).balance_loss is not None
    assert all(has_moved(model, before))


def test_switch_is_changed_on_a_loaded_model_and_saved(make_model, make_images, tmp_path):
    model = make_model()
    model.config.update_memory = False
    model.save_pretrained(tmp_path)
    loaded = AiTForImageClassification.from_pretrained(tmp_path).train()
    before = copy_memories(loaded)
    loaded(make_images())
    assert not any(has_moved(loaded, before))
    loaded.config.update_memory = True
    loaded(make_images())
    assert all(has_moved(loaded, before))


@pytest.mark.parametrize("update_memory", [True, False])
def test_switch_does_not_make_evaluation_write(make_model, make_images, update_memory):
    model = make_model(update_memory=update_memory).eval()
    before = copy_memories(model)
    model(make_images())
    assert not any(has_moved(model, before))


@pytest.fixture
def warnings(monkeypatch):
    from modeling_ait import modeling_ait as module

    messages = []
    monkeypatch.setattr(module.logger, "warning_once", messages.append)
    return messages


def test_frozen_workspace_is_not_written_and_the_warning_names_the_switch(make_model, make_images, warnings):
    model = make_model().train()
    for layer in model.ait.layers:
        layer.workspace.requires_grad_(False)
    before = copy_memories(model)
    model(make_images(), labels=LABELS).loss.backward()
    assert not any(has_moved(model, before))
    assert "config.update_memory = False" in warnings[0]
    model(make_images(), update_memory=True)
    assert all(has_moved(model, before))
    warnings.clear()
    model.config.update_memory = False
    model(make_images())
    assert not warnings


def test_workspace_with_one_parameter_left_to_train_is_written(make_model, make_images, warnings):
    model = make_model().train()
    model.ait.requires_grad_(False)
    model.ait.layers[1].workspace.retrieve.pattern_proj.bias.requires_grad_(True)
    before = copy_memories(model)
    model(make_images())
    assert all(has_moved(model, before))
    assert not warnings


def test_linear_probe_in_the_trainer_leaves_every_feature_as_it_was(make_model, make_images, tmp_path):
    model = make_model()
    model.ait.requires_grad_(False)
    images = make_images()
    with torch.no_grad():
        before = model.eval().ait(images).pooler_output
    head = model.classifier.weight.clone()
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, LABELS)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    Trainer(model=model, args=arguments, train_dataset=data).train()
    assert not torch.equal(model.classifier.weight, head)
    with torch.no_grad():
        assert torch.equal(model.eval().ait(images).pooler_output, before)


def test_memory_is_kept_whole_by_an_automatic_device_map():
    assert "AiTMemory" in AiTModel._no_split_modules


def measure_cosine(memory):
    """The smallest cosine between two slots."""
    rows = torch.nn.functional.normalize(memory, dim=-1)
    return (rows @ rows.T).min().item()


def test_memory_never_drifts_back_from_constant_tokens(make_model):
    """The same tokens, written again and again, make all slots equal; nothing but a reset takes them apart."""
    model = make_model(memory_update_rate=0.5).train()
    images = torch.ones(2, 3, 8, 12)
    assert min(map(measure_cosine, model.ait.memories)) < 0.9
    with torch.no_grad():
        for _ in range(100):
            model(images)
    assert min(map(measure_cosine, model.ait.memories)) > 0.999
    model.reset_memories()
    assert min(map(measure_cosine, model.ait.memories)) < 0.9


@pytest.mark.parametrize("name", ["ait.memory.layer_1", "ait.layers.0.mlp.fc1.weight"])
def test_checkpoint_that_is_not_finite_warns_when_it_opens(make_model, tmp_path, monkeypatch, name):
    model = make_model()
    messages = []
    monkeypatch.setattr(saving_ait.logger, "warning", messages.append)
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path)
    assert not messages
    model.state_dict()[name][0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path)
    assert name in messages[0] and "reset_memories()" in messages[0]


def test_onnx_export_that_would_lose_the_write_is_refused(make_model, make_images):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    model = make_model().train()
    before = [memory.clone() for memory in model.ait.memories]
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="An ONNX graph has no state"):
        torch.onnx.export(model, (make_images(),), dynamo=True, verbose=False)
    assert all(torch.equal(memory, old) for memory, old in zip(model.ait.memories, before))
    # A graph of torch has state.
    torch.export.export(model, (make_images(),)).module()(make_images())
