"""Every dropout measured where it acts: which share becomes zero in training, and that evaluation has none."""

import pytest
import torch

from modeling_ait import AiTModel
from modeling_ait.workspace_ait import AiTMemoryWrite


RATE = 0.4
# Of some hundreds of draws; a missing or doubled dropout is off by 0.24 or more.
TOLERANCE = 0.1


def assert_dropped(dropped, whole):
    """Check that a share of `RATE` is zero and the rest is scaled up to keep the mean."""
    kept = dropped != 0
    assert 1 - float(kept.float().mean()) == pytest.approx(RATE, abs=TOLERANCE)
    torch.testing.assert_close(dropped[kept], whole[kept] / (1 - RATE), rtol=1e-4, atol=1e-5)


def silence(linear):
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)


def test_hidden_dropout_acts_on_the_embeddings(make_model, make_images):
    embeddings = make_model(hidden_dropout_prob=RATE).ait.embeddings
    with torch.no_grad():
        assert_dropped(embeddings.train()(make_images()), embeddings.eval()(make_images()))


@pytest.mark.parametrize("branch", ["attention", "mlp and retrieval", "mlp"])
def test_hidden_dropout_acts_on_both_branches_of_a_block(make_model, branch):
    model = make_model(AiTModel, hidden_dropout_prob=RATE, num_memory_slots=0 if branch == "mlp" else 3)
    layer, (memory,) = model.layers[0], model.memory()[:1] or [None]
    if branch == "attention":
        silence(layer.layernorm_output)
        if layer.workspace is not None:
            silence(layer.workspace.retrieve.pattern_proj)
    else:
        silence(layer.attention.o_proj)
    tokens = torch.randn(8, 6, 16)
    with torch.no_grad():
        trained = layer.train()(tokens, memory)[0] - tokens
        evaluated = layer.eval()(tokens, memory)[0] - tokens
    # The sum with the tokens has rounded both.
    assert_dropped(torch.where(trained.abs() < 1e-6, 0.0, trained), evaluated)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_dropout_acts_on_the_probabilities_in_training_only(make_model, implementation):
    model = make_model(AiTModel, attention_probs_dropout_prob=RATE, attn_implementation=implementation)
    attention = model.layers[0].attention
    with torch.no_grad():
        # Each token sees itself alone, and the values are 1: what comes out is 1, or dropped with its head.
        for projection, scale in ((attention.q_proj, 100), (attention.k_proj, 100), (attention.v_proj, 0)):
            projection.weight.copy_(scale * torch.eye(16))
        attention.v_proj.weight[:, 0] = 1
        silence(attention.o_proj)
        attention.o_proj.weight.copy_(torch.eye(16))
        # Two heads 8 wide, 7 tokens that are orthogonal in both, and a first entry of 1 for the values.
        tokens = torch.eye(8)[1:].repeat(1, 2).repeat(40, 1, 1)
        tokens[..., 0] = 1
        attention.q_proj.weight[0, 0] = 0
        dropped, whole = attention.train()(tokens)[0], attention.eval()(tokens)[0]
    assert_dropped(dropped, torch.ones(40, 7, 16))
    torch.testing.assert_close(whole, torch.ones(40, 7, 16))


def test_write_dropout_acts_on_the_output_projection_before_the_residual_and_the_norm(make_config):
    write = AiTMemoryWrite(make_config(memory_dropout_prob=RATE, num_memory_slots=60)).train()
    seen = {}
    write.output_proj.register_forward_hook(lambda module, args, output: seen.update(projected=output))
    write.layernorm.register_forward_pre_hook(lambda module, args: seen.update(normed=args[0]))
    memory = torch.randn(60, 4)
    with torch.no_grad():
        written, _, _ = write(memory, torch.randn(4, 6, 16))
        dropped = seen["normed"] - memory
        assert_dropped(torch.where(dropped.abs() < 1e-6, 0.0, dropped), seen["projected"])
        # Nothing is dropped behind the norm.
        averaged = 0.9 * memory + 0.1 * write.layernorm(seen["normed"])
    torch.testing.assert_close(written, torch.nn.functional.normalize(averaged, dim=-1))
