"""The use of slots, the patches that retrieve them, and their movement, against direct computations."""

import math

import pytest
import torch

from examples.errors import InputError
from examples.visualization.measure import observe
from examples.visualization.slots import (
    compare_slots,
    measure_movement,
    measure_slot_use,
    read_memories,
    start_slot_use,
)


def split(batch, sizes):
    parts = {name: tensor.split(sizes) for name, tensor in batch.items()}
    return [{name: tensors[index] for name, tensors in parts.items()} for index in range(len(sizes))]


def test_slot_use_counts_every_token_of_every_batch(make_seen, fields, assert_unchanged):
    model, batch = make_seen(5, **fields)
    check = assert_unchanged(model)
    use, _ = measure_slot_use(model, split(batch, [3, 2]))
    check()
    retrieval = observe(model, batch).retrieval
    num_tokens = 5 * retrieval.shape[2]
    assert use.tokens.sum(dim=-1).tolist() == [num_tokens] * 2
    torch.testing.assert_close(use.attention.sum(dim=-1), torch.full((2,), num_tokens, dtype=torch.float64))
    for layer in range(2):
        rows = retrieval[layer].flatten(0, 1)
        counts = [int((rows.argmax(dim=-1) == slot).sum()) for slot in range(3)]
        assert use.tokens[layer].tolist() == counts
        assert use.is_dead[layer].tolist() == [count == 0 for count in counts]
        shares = rows.sum(dim=0) / num_tokens
        assert use.entropy[layer].item() == pytest.approx(-sum(p * math.log2(p) for p in shares.tolist()), rel=1e-4)
        of_tokens = [-sum(p * math.log2(p) for p in row.tolist() if p > 0) for row in rows]
        assert use.token_entropy[layer].item() == pytest.approx(sum(of_tokens) / num_tokens, rel=1e-4)


def test_watching_counts_the_same_and_leaves_no_hook(make_seen):
    model, batch = make_seen()
    direct, _ = measure_slot_use(model, [batch])
    watched = start_slot_use(model)
    with torch.no_grad():
        before = model(batch["pixel_values"]).logits
        with watched.watch(model):
            assert torch.equal(model(batch["pixel_values"]).logits, before)
        model(batch["pixel_values"])
    assert torch.equal(watched.tokens, direct.tokens)
    torch.testing.assert_close(watched.attention, direct.attention)


def test_strongest_patches_are_those_of_a_sorted_list(make_seen, fields):
    model, batch = make_seen(5, **fields)
    _, strongest = measure_slot_use(model, split(batch, [2, 2, 1]), num_patches=7)
    retrieval = observe(model, batch).patch_retrieval
    for layer in range(2):
        for slot in range(3):
            listed = sorted(
                (
                    (retrieval[layer, image, patch, slot].item(), image, patch)
                    for image in range(5)
                    for patch in range(6)
                ),
                key=lambda entry: -entry[0],
            )[:7]
            found = zip(strongest.images[layer, slot].tolist(), strongest.patches[layer, slot].tolist())
            assert [entry[1:] for entry in listed] == list(found)
            torch.testing.assert_close(strongest.attention[layer, slot], torch.tensor([entry[0] for entry in listed]))


def test_fewer_patches_than_asked_for_are_all_found_and_no_image_is_refused(make_seen):
    model, batch = make_seen(1)
    _, strongest = measure_slot_use(model, [batch], num_patches=50)
    assert strongest.attention.shape == (2, 3, 6)
    assert strongest.patches[0, 0].sort().values.tolist() == list(range(6))
    with pytest.raises(InputError, match="no image"):
        measure_slot_use(model, [])


def test_movement_is_the_angle_between_slots_whatever_their_length():
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    after = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 1e-4]])
    (angles,) = measure_movement([before], [after])
    expected = torch.tensor([0.0, 90.0, 180.0, math.degrees(math.atan(1e-4))], dtype=torch.float64)
    torch.testing.assert_close(angles, expected, rtol=1e-5, atol=1e-9)


def test_similarity_is_the_cosine_of_the_slots(make_model):
    memories = make_model().ait.memories
    similarity = compare_slots(memories)
    direct = torch.nn.functional.cosine_similarity(memories[1][:, None], memories[1][None], dim=-1)
    torch.testing.assert_close(similarity[1], direct)
    assert similarity.shape == (2, 3, 3)


@pytest.mark.parametrize("shard_size", ["50GB", "5KB"])
def test_memories_are_read_from_a_checkpoint_of_any_head(make_model, tmp_path, shard_size):
    for model in (make_model(), make_model().ait):
        model.base_model.memory.layer_1.uniform_()
        model.save_pretrained(tmp_path, max_shard_size=shard_size)
        memories = read_memories(tmp_path)
        assert len(memories) == 2
        assert all(torch.equal(one, other) for one, other in zip(memories, model.base_model.memories))
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()


def test_folder_without_memories_or_with_broken_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no memories"):
        read_memories(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_memories(tmp_path)
