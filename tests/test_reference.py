"""The model against an independent reference: outputs, memories, balance loss and every gradient."""

import pytest
import torch

from modeling_ait import AiTForRelationalReasoning

from .reference_ait import run_reference


VARIANTS = {
    "default": {},
    "detached write": {"differentiable_write": False},
    "official": {"differentiable_write": False, "position_embedding_type": "none", "pooling": "flatten"},
    "cls": {"pooling": "cls"},
    "all tokens kept": {"bottleneck_size": None},
    "bottleneck wider than the batch": {"bottleneck_size": 100},
    "three retrieval steps, cold": {"num_retrieval_steps": 3, "hopfield_beta": 2.5},
    "fast memory": {"memory_update_rate": 0.7},
    "attention in the second layer": {"attention_layers": [1]},
    "no attention": {"attention_layers": []},
    "norms and biases of a ViT": {
        "use_vit_norms": True,
        "pooling": "cls",
        "qkv_bias": False,
        "num_register_tokens": 2,
    },
}


@pytest.mark.parametrize("update_memory", [True, False])
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_model_equals_reference(make_model, make_images, fields, update_memory):
    assert_equals_reference(make_model(**fields), {"pixel_values": make_images(batch_size=2)}, update_memory)


@pytest.mark.parametrize("pooling", ["mean", "flatten", "cls"])
def test_relational_model_equals_reference(make_model, make_images, pooling):
    model = make_model(AiTForRelationalReasoning, question_size=5, pooling=pooling)
    inputs = {"pixel_values": make_images(batch_size=2), "question": torch.randn(2, 5)}
    assert_equals_reference(model, inputs, update_memory=True)


def assert_equals_reference(model, inputs, update_memory):
    labels = torch.tensor([2, 0])
    weights = {
        name: tensor.detach().double().requires_grad_(name in dict(model.named_parameters()))
        for name, tensor in model.state_dict().items()
    }
    config = {**model.config.to_dict()}

    logits, memories, balance_loss = run_reference(
        weights,
        config,
        inputs["pixel_values"].double(),
        update_memory,
        questions=inputs["question"].double() if "question" in inputs else None,
    )
    loss = torch.nn.functional.cross_entropy(logits, labels)
    if update_memory:
        loss = loss + config["balance_loss_coef"] * balance_loss
    loss.backward()

    outputs = model.train()(**inputs, labels=labels, update_memory=update_memory)
    outputs.loss.backward()

    # float32 against float64 over two blocks: sums of some hundred terms round at 1e-6 relative.
    torch.testing.assert_close(outputs.logits.double(), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.loss.double(), loss, rtol=1e-5, atol=1e-5)
    for computed, expected in zip(model.ait.memories, memories):
        torch.testing.assert_close(computed.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    if update_memory:
        torch.testing.assert_close(outputs.balance_loss.double(), balance_loss, rtol=1e-5, atol=1e-5)
    else:
        assert outputs.balance_loss is None
    for name, parameter in model.named_parameters():
        expected = weights[name].grad
        if expected is None:
            assert parameter.grad is None or not parameter.grad.any(), f"{name} got a gradient that it should not"
        else:
            torch.testing.assert_close(
                parameter.grad.double(), expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
