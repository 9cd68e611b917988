"""The model against tensors that the official code computed (`tests/fixtures/README.md` says what they are)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conversion.common import expand_layers
from conversion.convert_official import convert_checkpoint, make_weight_map
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


FIXTURES = Path(__file__).parent / "fixtures" / "official"
CLASSES = {"image_classification": AiTForImageClassification, "relational_reasoning": AiTForRelationalReasoning}


@pytest.fixture(params=CLASSES)
def official(request):
    """Name of the model, its sizes and the tensors that the official code computed."""
    sizes = json.loads((FIXTURES / f"{request.param}.json").read_text())
    return request.param, sizes, load_file(FIXTURES / f"{request.param}.safetensors")


@pytest.fixture
def model(official):
    name, sizes, tensors = official
    model = convert_checkpoint(
        str(FIXTURES / f"{name}.pth"), bottleneck_size=sizes["bottleneck"], hopfield_beta=sizes["beta"]
    )
    assert type(model) is CLASSES[name]
    for write in (layer.workspace.write for layer in model.ait.layers):
        write.dropout.p = 0.0  # as in the fixture
    with torch.no_grad():
        for layer, memory in enumerate(model.ait.memories):
            memory.copy_(tensors[f"memory_before.{layer}"])
    return model


def get_inputs(tensors, suffix="", prefix=""):
    """Inputs of a batch by our names; `question` where the model takes one."""
    return {
        name: tensors[f"{prefix}{name}{suffix}"]
        for name in ("pixel_values", "question")
        if f"{prefix}{name}{suffix}" in tensors
    }


def convert_gradients(sizes, tensors):
    weight_map = make_weight_map(sizes["memory_head"], has_question="question" in tensors)
    return {
        target: part
        for name, (targets, transform) in expand_layers(weight_map, sizes["num_hidden_layers"]).items()
        if f"grad.{name}" in tensors
        for target, part in zip(targets, transform(tensors[f"grad.{name}"]))
    }


def assert_near(computed, expected):
    torch.testing.assert_close(computed, expected.reshape(computed.shape), rtol=0, atol=1e-5)


def test_frozen_memory_gives_official_logits(model, official):
    tensors = official[-1]
    inputs = get_inputs(tensors)
    with torch.no_grad():
        assert_near(model.eval()(**inputs).logits, tensors["logits_frozen"])
        first = {name: tensor[:1] for name, tensor in inputs.items()}
        assert_near(model(**first).logits, tensors["logits_frozen_first_sample"])


def test_writing_forward_gives_official_loss_memories_and_gradients(model, official):
    _, sizes, tensors = official
    outputs = model.train()(**get_inputs(tensors), labels=tensors["labels"].long())
    outputs.loss.backward()
    assert_near(outputs.logits, tensors["logits_write"])
    assert_near(outputs.loss, tensors["loss"])
    # The official term includes sigma.
    assert_near(model.config.balance_loss_coef * outputs.balance_loss, tensors["aux_loss"])
    for layer, memory in enumerate(model.ait.memories):
        assert_near(memory, tensors[f"memory_after.{layer}"])

    expected = convert_gradients(sizes, tensors)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        if not name.endswith("write.query_proj.weight"):  # the next test is about these
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


def test_official_query_gradient_is_stale_and_otherwise_equal(model, official):
    """
    The official code overwrites the memory through `.data` between forward and backward.

    Autograd cannot notice: its gradient of the query projection is multiplied with the moving average before
    normalisation, where the derivative has the memory that was projected. Ours is the derivative (test_reference.py).
    """
    _, sizes, tensors = official
    query_gradients, written = {}, {}
    for index, layer in enumerate(model.ait.layers):

        def record_query(module, args, output, index=index):
            output.register_hook(lambda gradient: query_gradients.update({index: gradient}))

        def record_written(module, args, output, index=index):
            written[index] = output.detach()

        layer.workspace.write.query_proj.register_forward_hook(record_query)
        layer.workspace.write.output_proj.register_forward_hook(record_written)
    model.train()(**get_inputs(tensors), labels=tensors["labels"].long()).loss.backward()

    expected = convert_gradients(sizes, tensors)
    for index, layer in enumerate(model.ait.layers):
        memory = tensors[f"memory_before.{index}"]
        norm = layer.workspace.write.layernorm
        with torch.no_grad():
            overwritten = 0.9 * memory + 0.1 * norm(memory + written[index])
        official_gradient = expected[f"ait.layers.{index}.workspace.write.query_proj.weight"]
        torch.testing.assert_close(query_gradients[index].T @ overwritten, official_gradient, rtol=0, atol=1e-8)
        assert_near(layer.workspace.write.query_proj.weight.grad, query_gradients[index].T @ memory)


def test_five_writing_forwards_give_official_memories(model, official):
    tensors = official[-1]
    extra = [get_inputs(tensors, suffix=f".{index}", prefix="extra_") for index in range(4)]
    with torch.no_grad():
        for batch in [get_inputs(tensors), *extra]:
            model.train()(**batch)
    for layer, memory in enumerate(model.ait.memories):
        assert_near(memory, tensors[f"memory_after_5.{layer}"])


def test_evaluation_with_update_memory_writes_as_the_official_code_does(model, official):
    tensors = official[-1]
    with torch.no_grad():
        outputs = model.eval()(**get_inputs(tensors), update_memory=True)
    assert_near(outputs.logits, tensors["logits_write"])
    for layer, memory in enumerate(model.ait.memories):
        assert_near(memory, tensors[f"memory_after.{layer}"])


@pytest.mark.parametrize(
    ("size", "official_count"), [("small", 15_784_426), ("medium", 45_876_970), ("base", 91_015_786)]
)
def test_parameter_count_is_the_official_one_without_unused_parameters(size, official_count):
    config = AiTConfig.from_size(
        size, image_size=32, patch_size=4, num_labels=10, position_embedding_type="none", pooling="flatten"
    )
    with torch.device("meta"):
        model = AiTForImageClassification(config)
    # The official code counts its memories as parameters; here they are buffers.
    count = sum(parameter.numel() for parameter in model.parameters()) + sum(m.numel() for m in model.ait.memories)
    assert count == official_count - 109_056
