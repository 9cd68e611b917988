"""The model against tensors that the official code computed (`tests/fixtures/README.md` says what they are)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_ait import AiTConfig, AiTForImageClassification


FIXTURES = Path(__file__).parent / "fixtures" / "official"
# The official code keeps these and never uses them, or has them under another name.
WITHOUT_COUNTERPART = {
    "pos_embedding",
    "cls_token",
    "to_patch_embedding_cnn.0.weight",
    "to_patch_embedding_cnn.0.bias",
}


def rename_layer_weight(name: str, tensor: torch.Tensor, num_heads: int):
    """Yield our name and tensor for an official tensor inside a layer."""
    qkv = {"0.fn.to_qkv.weight": ("q_proj", "k_proj", "v_proj")}
    simple = {
        "0.norm": "layernorm_before",
        "0.fn.to_out.0": "attention.o_proj",
        "1.norm": "layernorm_after",
        "1.fn.fc1": "mlp.fc1",
        "1.fn.fc2": "mlp.fc2",
        "1.fn.norm": "mlp.layernorm",
        "1.fn.fc3": "workspace.retrieve.pattern_proj",
        "1.fn.memoryupdate.mha.w_qs": "workspace.write.q_proj",
        "1.fn.memoryupdate.mha.w_ks": "workspace.write.k_proj",
        "1.fn.memoryupdate.mha.w_vs": "workspace.write.v_proj",
        "1.fn.memoryupdate.mha.fc": "workspace.write.o_proj",
        "1.fn.memoryupdate.mha.layer_norm": "workspace.write.layernorm",
    }
    if name in qkv:
        for projection, part in zip(qkv[name], tensor.chunk(3)):
            yield f"attention.{projection}.weight", part
        return
    module, kind = name.rsplit(".", 1)
    if module == "1.fn.memoryupdate.mha.fc":
        # The official code concatenates its heads width-major: column d * S + s belongs to head s.
        tensor = tensor.unflatten(1, (-1, num_heads)).transpose(1, 2).flatten(1)
    yield f"{simple[module]}.{kind}", tensor


def convert(tensors: dict[str, torch.Tensor], num_heads: int) -> dict[str, torch.Tensor]:
    top = {
        "to_patch_embedding.1": "ait.embeddings.patch_embeddings.layernorm_before",
        "to_patch_embedding.2": "ait.embeddings.patch_embeddings.projection",
        "to_patch_embedding.3": "ait.embeddings.patch_embeddings.layernorm_after",
        "mlp_head.0": "ait.layernorm",
        "mlp_head.1": "classifier",
    }
    converted = {}
    for name, tensor in tensors.items():
        if name in WITHOUT_COUNTERPART or name.endswith("memoryupdate.beta"):
            continue
        if name.startswith("transformer.layers."):
            layer, rest = name.removeprefix("transformer.layers.").split(".", 1)
            if rest == "1.fn.memoryupdate.memory":
                converted[f"ait.memory_{layer}"] = tensor
                continue
            for ours, part in rename_layer_weight(rest, tensor, num_heads):
                converted[f"ait.layers.{layer}.{ours}"] = part
        else:
            module, kind = name.rsplit(".", 1)
            converted[f"{top[module]}.{kind}"] = tensor
    return converted


def convert_gradients(sizes, tensors):
    gradients = {name.removeprefix("grad."): tensor for name, tensor in tensors.items() if name.startswith("grad.")}
    return convert(gradients, sizes["memory_head"])


@pytest.fixture
def official():
    sizes = json.loads((FIXTURES / "image_classification.json").read_text())
    return sizes, load_file(FIXTURES / "image_classification.safetensors")


@pytest.fixture
def model(official):
    sizes, tensors = official
    config = AiTConfig(
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        intermediate_size=sizes["intermediate_size"],
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        num_labels=sizes["num_classes"],
        num_memory_slots=sizes["pattern_size"],
        memory_slot_size=sizes["memory_dim"],
        num_memory_heads=sizes["memory_head"],
        bottleneck_size=sizes["bottleneck"],
        hopfield_beta=sizes["beta"],
        memory_dropout_prob=0.0,
        differentiable_write=False,
        position_embedding_type="none",
        pooling="flatten",
    )
    model = AiTForImageClassification(config)
    weights = torch.load(FIXTURES / "image_classification.pth", weights_only=True)
    model.load_state_dict(convert(weights, sizes["memory_head"]))
    with torch.no_grad():
        for layer, memory in enumerate(model.ait.memories):
            memory.copy_(tensors[f"memory_before.{layer}"])
    return model


def assert_near(computed, expected):
    torch.testing.assert_close(computed, expected.reshape(computed.shape), rtol=0, atol=1e-5)


def test_frozen_memory_gives_official_logits(model, official):
    _, tensors = official
    with torch.no_grad():
        assert_near(model.eval()(tensors["pixel_values"]).logits, tensors["logits_frozen"])
        assert_near(model(tensors["pixel_values"][:1]).logits, tensors["logits_frozen_first_sample"])


def test_writing_forward_gives_official_loss_memories_and_gradients(model, official):
    sizes, tensors = official
    outputs = model.train()(tensors["pixel_values"], labels=tensors["labels"].long())
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
        if not name.endswith("write.q_proj.weight"):  # the next test is about these
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


def test_official_query_gradient_is_stale_and_otherwise_equal(model, official):
    """
    The official code overwrites the memory through `.data` between forward and backward.

    Autograd cannot notice: its gradient of the query projection is multiplied with the moving average before
    normalisation, where the derivative has the memory that was projected. Ours is the derivative (test_reference.py).
    """
    sizes, tensors = official
    query_gradients, written = {}, {}
    for index, layer in enumerate(model.ait.layers):

        def record_query(module, args, output, index=index):
            output.register_hook(lambda gradient: query_gradients.update({index: gradient}))

        def record_written(module, args, output, index=index):
            written[index] = output.detach()

        layer.workspace.write.q_proj.register_forward_hook(record_query)
        layer.workspace.write.o_proj.register_forward_hook(record_written)
    model.train()(tensors["pixel_values"], labels=tensors["labels"].long()).loss.backward()

    expected = convert_gradients(sizes, tensors)
    for index, layer in enumerate(model.ait.layers):
        memory = tensors[f"memory_before.{index}"]
        norm = layer.workspace.write.layernorm
        with torch.no_grad():
            overwritten = 0.9 * memory + 0.1 * norm(memory + written[index])
        official_gradient = expected[f"ait.layers.{index}.workspace.write.q_proj.weight"]
        torch.testing.assert_close(query_gradients[index].T @ overwritten, official_gradient, rtol=0, atol=1e-8)
        assert_near(layer.workspace.write.q_proj.weight.grad, query_gradients[index].T @ memory)


def test_five_writing_forwards_give_official_memories(model, official):
    _, tensors = official
    batches = [tensors["pixel_values"]] + [tensors[f"extra_pixel_values.{index}"] for index in range(4)]
    with torch.no_grad():
        for batch in batches:
            model.train()(batch)
    for layer, memory in enumerate(model.ait.memories):
        assert_near(memory, tensors[f"memory_after_5.{layer}"])


def test_evaluation_with_update_memory_writes_as_the_official_code_does(model, official):
    _, tensors = official
    with torch.no_grad():
        outputs = model.eval()(tensors["pixel_values"], update_memory=True)
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
