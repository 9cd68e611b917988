"""Slots that are taken away at inference: as a memory without them, and back again afterwards."""

import pytest
import torch

from examples.errors import InputError
from examples.visualization.ablation import (
    measure_ablations,
    measure_accuracy,
    parse_slots,
    without_memory,
    without_slots,
)
from examples.visualization.measure import observe
from modeling_ait import workspace_ait


def run(model, batch):
    with torch.no_grad():
        return model(**{name: tensor for name, tensor in batch.items() if name != "labels"}, output_workspace=True)


def test_removed_slots_are_masked_in_the_softmax(make_seen, fields, assert_unchanged, monkeypatch):
    model, batch = make_seen(**fields, num_retrieval_steps=2)
    whole = run(model, batch)
    check = assert_unchanged(model)
    with without_slots(model, {0: [1], 1: [0, 2]}):
        ablated = run(model, batch)
    check()
    removed = iter([[1], [0, 2]])

    def retrieve_masked(states, patterns, beta, num_steps):
        mask = torch.zeros(len(patterns))
        mask[next(removed)] = -torch.inf
        for _ in range(num_steps):
            attention = (beta * states @ patterns.T + mask).softmax(dim=-1)
            states = attention @ patterns
        return states, attention

    with monkeypatch.context() as patched:
        patched.setattr(workspace_ait, "retrieve_patterns", retrieve_masked)
        direct = run(model, batch)
    torch.testing.assert_close(ablated.logits, direct.logits, rtol=1e-4, atol=1e-5)
    for layer, slots in ((0, [1]), (1, [0, 2])):
        attention = ablated.retrieval_attentions[layer]
        torch.testing.assert_close(attention, direct.retrieval_attentions[layer], rtol=1e-4, atol=1e-5)
        assert (attention[..., slots] == 0).all()
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
    assert not torch.allclose(ablated.logits, whole.logits)
    assert torch.equal(run(model, batch).logits, whole.logits)


def test_the_same_slots_of_all_layers_are_one_sequence(make_seen):
    model, batch = make_seen()
    with without_slots(model, [2]):
        attentions = observe(model, batch).retrieval
    assert (attentions[..., 2] == 0).all() and (attentions[..., :2] > 0).any(dim=-1).all()
    with without_slots(model, []):
        assert torch.equal(observe(model, batch).retrieval, observe(model, batch).retrieval)


def test_without_memory_nothing_is_added_to_a_token(make_seen, fields, assert_unchanged):
    model, batch = make_seen(**fields)
    check = assert_unchanged(model)
    with without_memory(model):
        ablated = run(model, batch).logits
    with without_memory(model, [1]):
        second = run(model, batch).logits
    check()
    for layer, logits in ((1, second), (0, ablated)):
        # Patterns of zeros give zeros.
        torch.nn.init.zeros_(model.ait.layers[layer].workspace.retrieve.pattern_proj.weight)
        torch.nn.init.zeros_(model.ait.layers[layer].workspace.retrieve.pattern_proj.bias)
        torch.testing.assert_close(run(model, batch).logits, logits)


def test_slots_come_back_after_an_error(make_seen):
    model, batch = make_seen()
    whole = run(model, batch).logits
    with pytest.raises(KeyError), without_slots(model, [0]), without_memory(model):
        raise KeyError
    assert torch.equal(run(model, batch).logits, whole)


def test_names_of_slots_are_read_and_wrong_ones_refused(make_model):
    model = make_model()
    assert parse_slots(["1", "0:2", "0:1"], model) == {0: [1, 2], 1: [1]}
    assert parse_slots([], model) == {}
    for names, message in (
        (["3"], "no slot '3'"),
        (["2:0"], "no slot '2:0'"),
        (["a"], "takes slots"),
        (["1:"], "takes slots"),
        (["-1"], "takes slots"),
        (["0", "1", "2"], "leaves no slot"),
    ):
        with pytest.raises(InputError, match=message):
            parse_slots(names, model)
    for slots in ([0, 1, 2], [3]):
        with pytest.raises(ValueError, match="at least one of 0 to 2"), without_slots(model, slots):
            pass


def test_ablations_are_accuracies_of_every_slot_in_percent(make_seen, assert_unchanged):
    model, batch = make_seen(8)
    batches = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 5), slice(5, 8))]
    predictions = run(model, batch).logits.argmax(dim=-1)
    assert measure_accuracy(model, batches) == 100 * (predictions == batch["labels"]).float().mean().item()
    check, seen = assert_unchanged(model), []
    measured = measure_ablations(model, batches, {0: [1], 1: [1]}, lambda: seen.append(1))
    check()
    assert len(seen) == 6 and len(measured["without_slot"]) == 2
    with without_slots(model, {1: [2]}):
        assert measured["without_slot"][1][2] == measure_accuracy(model, batches)
    with without_slots(model, [1]):
        assert measured["without_chosen"] == measure_accuracy(model, batches)
    with without_memory(model, [1]):
        assert measured["without_memory_of_layer"][1] == measure_accuracy(model, batches)
    assert "without_chosen" not in measure_ablations(model, batches)


def test_only_slot_of_a_layer_is_its_memory_and_no_label_is_refused(make_seen):
    model, batch = make_seen(8, num_memory_slots=1)
    measured = measure_ablations(model, [batch])
    assert [row[0] for row in measured["without_slot"]] == measured["without_memory_of_layer"]
    with pytest.raises(InputError, match="no labelled image"):
        measure_accuracy(model, [])
