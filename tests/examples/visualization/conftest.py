"""Fixtures for looking at memories: models of every kind, and batches for them."""

import pytest
import torch

from modeling_ait import AiTForRelationalReasoning


QUESTION_SIZE = 5
# Each with tokens that are no patches, or none, before or behind them.
KINDS = {
    "mean": {},
    "cls, registers": {"pooling": "cls", "num_register_tokens": 2},
    "flatten, stem, grey": {"pooling": "flatten", "stem_strides": [2, 2], "num_channels": 1},
    "joint question": {"pooling": "question", "num_register_tokens": 1, "question_size": QUESTION_SIZE},
    "question, attention in one layer": {
        "pooling": "question",
        "num_register_tokens": 1,
        "question_size": QUESTION_SIZE,
        "attention_layers": [1],
    },
    "independent question": {"question_attention": "independent", "question_size": QUESTION_SIZE},
}


@pytest.fixture(params=list(KINDS))
def fields(request):
    """Fields of the configuration of each kind of model."""
    return KINDS[request.param]


@pytest.fixture
def make_seen(make_model, make_images):
    """Factory of a tiny model in evaluation mode, and a batch for it with labels, of 8 x 12 images."""

    def make(batch_size=4, **fields):
        classes = (AiTForRelationalReasoning,) if "question_size" in fields else ()
        model = make_model(*classes, **fields).eval()
        batch = {"pixel_values": make_images(batch_size, num_channels=fields.get("num_channels", 3))}
        if "question_size" in fields:
            batch["question"] = torch.randn(batch_size, QUESTION_SIZE, generator=torch.Generator().manual_seed(2))
        return model, {**batch, "labels": torch.arange(batch_size) % 3}

    return make


@pytest.fixture
def assert_unchanged():
    """Factory of a check that a model is, in weights, buffers, modes and attention, what it was."""

    def remember(model):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        hooks = [len(layer.workspace.retrieve._forward_pre_hooks) for layer in model.base_model.layers]
        implementation = model.config._attn_implementation

        def check():
            assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
            assert [module.training for module in model.modules()] == modes
            assert [len(layer.workspace.retrieve._forward_pre_hooks) for layer in model.base_model.layers] == hooks
            assert model.config._attn_implementation == implementation

        return check

    return remember
