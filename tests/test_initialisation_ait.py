"""How every parameter starts, measured: deviations, means, norms, epsilons."""

import pytest
import torch
from torch import nn

from modeling_ait import AiTForRelationalReasoning


@pytest.fixture
def model(make_config):
    """A model wide enough to measure deviations to a few percent, with every part that a configuration can ask for."""
    fields = {"hidden_size": 128, "intermediate_size": 160, "num_memory_slots": 8, "memory_slot_size": 32}
    config = make_config(
        **fields, qkv_bias=True, pooling="cls", num_register_tokens=4, question_size=40, num_labels=50,
        initializer_range=0.05, layer_norm_eps=0.003,
    )  # fmt: skip
    return AiTForRelationalReasoning(config)


def test_weights_of_linear_layers_start_with_the_deviation_of_the_config(model):
    measured = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "workspace" not in name:
            assert float(module.weight.detach().std()) == pytest.approx(0.05, rel=0.05), name
            assert float(module.weight.detach().mean()) == pytest.approx(0, abs=0.003), name
            assert module.bias is None or not module.bias.any(), name
            measured += 1
    # Patches, question, classifier, and in each block queries, keys, values, output and two of the MLP.
    assert measured == 3 + 2 * 6


def test_workspace_starts_with_the_deviation_of_the_config(model):
    measured = 0
    for layer in model.ait.layers:
        for name, module in layer.workspace.named_modules():
            if isinstance(module, nn.Linear):
                assert float(module.weight.detach().std()) == pytest.approx(0.05, rel=0.1), name
                assert module.bias is None or not module.bias.any(), name
                measured += 1
    # Query, key, value and output of the write, and the patterns.
    assert measured == 2 * 5


def test_prefix_tokens_that_a_checkpoint_lacks_start_like_those_of_a_new_model(make_config, tmp_path):
    make_model = AiTForRelationalReasoning
    make_model(make_config(question_size=5, position_embedding_type="none")).save_pretrained(tmp_path)
    loaded, info = make_model.from_pretrained(
        tmp_path, pooling="cls", num_register_tokens=16, hidden_size=16, output_loading_info=True
    )
    assert {"ait.embeddings.prefix_tokens.0", "ait.embeddings.prefix_tokens.1"} == info["missing_keys"]
    registers = loaded.ait.embeddings.prefix_tokens[1].detach()
    assert float(registers.std()) == pytest.approx(0.02, rel=0.2)
    assert float(loaded.ait.embeddings.prefix_tokens[0].detach().abs().max()) < 0.1


def test_learned_tokens_and_positions_start_with_the_deviation_of_the_config(model):
    embeddings = model.ait.embeddings
    cls_token, registers = embeddings.prefix_tokens
    # 6 patches, the CLS token, 4 registers and the question.
    assert (cls_token.shape, registers.shape) == ((1, 1, 128), (1, 4, 128))
    assert embeddings.position_embeddings.shape == (1, 12, 128)
    assert float(embeddings.position_embeddings.detach().std()) == pytest.approx(0.05, rel=0.06)
    learned = torch.cat([cls_token, registers], dim=1).detach()
    assert float(learned.std()) == pytest.approx(0.05, rel=0.12)


def test_every_norm_has_the_epsilon_of_the_config_but_that_of_the_write(make_model, model):
    stem = make_model(stem_strides=[2, 2], layer_norm_eps=0.003)
    norms = {
        name: module
        for each in (model, stem)
        for name, module in each.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm))
    }
    assert sum("stem" in name for name in norms) == 1
    assert sum("question" in name for name in norms) == 2
    for name, norm in norms.items():
        assert norm.eps == (1e-6 if "write" in name else 0.003), name


def test_norms_start_as_the_identity(model):
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones_like(module.weight)), name
            assert not module.bias.any(), name
