"""What memories do with a batch, against direct computations; nothing of it changes the model."""

import pytest
import torch

from examples.errors import InputError
from examples.visualization.measure import (
    get_encoder,
    locate_tokens,
    measure_write,
    observe,
    read_write_attentions,
)
from modeling_ait import compute_energy
from tests.examples.visualization.conftest import KINDS


def test_patches_are_the_tokens_that_change_with_their_pixels(make_seen, fields):
    model, batch = make_seen(**fields)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    layout = locate_tokens(model, batch["pixel_values"])
    assert layout.grid == (2, 3)
    first, last = inputs["pixel_values"].clone(), inputs["pixel_values"].clone()
    first[:, :, :4, :4] += torch.randn(4, 4)
    last[:, :, 4:, 8:] += torch.randn(4, 4)
    embed = model.base_model.embeddings
    before = embed(**inputs)
    if "stem_strides" in fields:
        # Its norms see the whole image: every patch changes, and no other token.
        changed = (embed(**{**inputs, "pixel_values": first}) - before).abs().amax(dim=(0, 2)) > 0
        assert changed.nonzero().flatten().tolist() == list(range(layout.patches.start, layout.patches.stop))
    else:
        for pixels, place in ((first, layout.patches.start), (last, layout.patches.stop - 1)):
            changed = (embed(**{**inputs, "pixel_values": pixels}) - before).abs().amax(dim=(0, 2)) > 0
            assert changed.nonzero().flatten().tolist() == [place]
    if layout.question is not None:
        changed = (embed(**{**inputs, "question": inputs["question"].flip(0)}) - before).abs().amax(dim=(0, 2)) > 0
        assert changed.nonzero().flatten().tolist() == [layout.question]


def test_observation_is_what_the_model_computes(make_seen, fields, assert_unchanged):
    model, batch = make_seen(**fields)
    model.train()
    check = assert_unchanged(model)
    seen = observe(model, batch)
    check()
    tokens = []
    hooks = [
        layer.workspace.retrieve.register_forward_pre_hook(lambda module, arguments: tokens.append(arguments[1]))
        for layer in model.base_model.layers
    ]
    model.eval()
    with torch.no_grad():
        outputs = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        patterns = [
            layer.workspace.retrieve.pattern_proj(memory)
            for layer, memory in zip(model.base_model.layers, model.base_model.memories)
        ]
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen.logits, outputs.logits, rtol=1e-4, atol=1e-5)
    for layer, (states, stored) in enumerate(zip(tokens, patterns)):
        attention = (states @ stored.T).softmax(dim=-1)
        torch.testing.assert_close(seen.retrieval[layer], attention, rtol=1e-4, atol=1e-5)
        energies = torch.stack([compute_energy(x, stored, 1.0) for x in (states, attention @ stored)])
        torch.testing.assert_close(seen.energies[layer], energies, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.retrieval.sum(dim=-1), torch.ones(seen.retrieval.shape[:-1]))
    assert seen.patch_retrieval.shape == (2, 4, 6, 3) and seen.patch_energies.shape == (2, 2, 4, 6)
    assert (seen.question_attention is None) == (seen.question_retrieval is None) == ("question" not in batch)


@pytest.mark.parametrize("beta", [0.25, 1.0, 8.0])
def test_energy_never_rises_in_one_step(make_seen, beta):
    model, batch = make_seen(hopfield_beta=beta)
    before, after = observe(model, batch).energies.unbind(dim=1)
    assert (after <= before + 1e-4).all() and (after < before - 1e-2).any()


@pytest.mark.parametrize("kind", ["joint question", "question, attention in one layer", "independent question"])
def test_attention_of_a_question_is_that_of_its_row(make_seen, kind):
    fields = KINDS[kind]
    model, batch = make_seen(**fields)
    seen = observe(model, batch)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(batch["pixel_values"], batch["question"], output_attentions=True)
    place = 6 if fields.get("question_attention") == "independent" else fields["num_register_tokens"]
    first_patch = 0 if fields.get("question_attention") == "independent" else place + 1
    layers = fields.get("attention_layers", [0, 1])
    for layer, attention in zip(layers, outputs.attentions, strict=True):
        direct = attention.mean(dim=1)[:, place, first_patch : first_patch + 6]
        torch.testing.assert_close(seen.question_attention[layer], direct)
    # What has no attention looks nowhere.
    assert seen.question_attention.flatten(1).any(dim=1).nonzero().flatten().tolist() == layers


def test_write_is_read_without_a_change_of_any_memory(make_seen, fields, assert_unchanged):
    model, batch = make_seen(**fields)
    check = assert_unchanged(model)
    attention = read_write_attentions(model, batch)
    shares = measure_write(model, batch)
    check()
    with torch.no_grad():
        outputs = model(
            **{name: tensor for name, tensor in batch.items() if name != "labels"},
            update_memory=True,
            output_workspace=True,
        )
    # In the second layer the tokens have read what the first has written.
    torch.testing.assert_close(attention[0], outputs.write_attentions[0])
    torch.testing.assert_close(attention.sum(dim=(-1, -2)), torch.ones(2, 2, 3))
    # Five tokens win a place in each slot and head.
    assert ((attention > 0).sum(dim=(-1, -2)) <= 5).all()
    patches = locate_tokens(model, batch["pixel_values"]).patches
    direct = sum(attention[:, head, slot] for head in range(2) for slot in range(3)) / 6
    torch.testing.assert_close(shares, direct[:, :, patches])


def test_model_without_memory_and_several_questions_are_refused(make_seen, make_model):
    with pytest.raises(InputError, match="no memory to look at"):
        get_encoder(make_model(num_memory_slots=0))
    model, batch = make_seen(question_size=5, question_attention="independent")
    with pytest.raises(ValueError, match="One question for each image"):
        observe(model, {**batch, "question": torch.zeros(4, 2, 5)})
