"""The write: bottleneck selection, balance loss and moving average."""

from functools import partial

import pytest
import torch

from modeling_ait.workspace_ait import (
    AiTMemoryWrite,
    attend_through_bottleneck,
    average_memory,
    compute_balance_loss,
    compute_cv_squared,
    partition_rows,
    select_tokens,
    sort_entries,
)


# 19 tokens: up to 6 of them are attended to one by one, more of them by matrix products.
NUM_TOKENS = 19


def draw_competition(num_heads=2, num_slots=3, num_tokens=NUM_TOKENS, hidden_size=5, dtype=torch.float64):
    queries = torch.randn(num_heads, num_slots, hidden_size, dtype=dtype, requires_grad=True)
    return queries, torch.randn(num_tokens, hidden_size, dtype=dtype, requires_grad=True)


def attend_plainly(queries, tokens, bottleneck_size):
    """The same attention over all tokens, with everything but the largest logits at minus infinity."""
    logits = queries @ tokens.T
    weakest = logits.topk(min(bottleneck_size or len(tokens), len(tokens)), dim=-1).values[..., -1:]
    attention = logits.masked_fill(logits < weakest, -torch.inf).softmax(dim=-1)
    return attention @ tokens, attention, (logits >= weakest).to(logits.dtype)


@pytest.mark.parametrize("bottleneck_size", [1, 3, 6, 7, 18, 19, 20, None])
def test_attention_balance_loss_and_gradients_are_those_of_the_plain_form(bottleneck_size):
    queries, tokens = draw_competition()
    attended, attention, _, kept_tokens = attend_through_bottleneck(queries, tokens, bottleneck_size)
    expected, plain_attention, selection = attend_plainly(queries, tokens, bottleneck_size)
    torch.testing.assert_close(attended, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention, plain_attention.gather(-1, kept_tokens), rtol=1e-12, atol=1e-12)
    assert selection.gather(-1, kept_tokens).all()

    balance_loss = compute_balance_loss(attention, kept_tokens, len(tokens))
    expected_loss = (compute_cv_squared(plain_attention.sum(dim=1)) + compute_cv_squared(selection.sum(dim=1))).sum()
    torch.testing.assert_close(balance_loss, expected_loss, rtol=1e-12, atol=1e-12)

    weights = torch.randn_like(attended)
    gradients = torch.autograd.grad((attended * weights).sum() + balance_loss, (queries, tokens))
    expected_gradients = torch.autograd.grad((expected * weights).sum() + expected_loss, (queries, tokens))
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bottleneck_size", [2, 4, 12])
def test_gradients_of_the_bottleneck_pass_gradcheck(bottleneck_size):
    assert torch.autograd.gradcheck(
        lambda *inputs: attend_through_bottleneck(*inputs, bottleneck_size)[:2], draw_competition()
    )


@pytest.mark.parametrize(("num_entries", "num_tokens"), [(100, 50), (2**15, 50), (100, 2**16), (100, 2**16 + 9)])
def test_entries_are_sorted_by_token_in_their_order(num_entries, num_tokens):
    places = torch.randint(num_tokens, (num_entries,))
    places[:6] = torch.tensor([num_tokens - 1, 0, num_tokens - 1, 0, 1, 0])
    sorted_places, order = sort_entries(places, num_tokens)
    expected, expected_order = places.sort(stable=True)
    assert sorted_places.tolist() == expected.tolist()
    assert order.tolist() == expected_order.tolist()


def note_shape(shapes, tensor):
    shapes.append(tensor.shape)
    return tensor


def test_what_is_kept_for_the_backward_pass_grows_with_the_selection_alone():
    kept = {64: [], 640: []}
    for num_tokens, shapes in kept.items():
        queries, tokens = draw_competition(num_tokens=num_tokens)
        with torch.autograd.graph.saved_tensors_hooks(partial(note_shape, shapes), lambda tensor: tensor):
            attend_through_bottleneck(queries, tokens, bottleneck_size=4)
        shapes.remove(tokens.shape)
    assert kept[64] == kept[640] != []


@pytest.mark.parametrize("num_kept", [1, 3, 4, 7])
def test_of_equal_logits_the_first_tokens_are_kept(num_kept):
    logits = torch.tensor(
        [[1.0, 3.0, 2.0, 3.0, 3.0, 1.0, 3.0, 0.0], [float("nan"), 5.0, 5.0, 1.0, 5.0, 1.0, 0.0, 5.0]]
    )
    expected = logits.argsort(dim=-1, descending=True, stable=True)[:, :num_kept]
    kept = torch.from_numpy(partition_rows(logits.numpy(), num_kept))
    assert torch.equal(kept.sort(dim=-1).values, expected.sort(dim=-1).values)


@pytest.mark.parametrize("num_threads", [1, 8])
@pytest.mark.parametrize("num_kept", [1, 5, 40])
def test_the_largest_are_selected_however_many_threads_there_are(num_threads, num_kept):
    queries, tokens = torch.randn(70, 5), torch.randn(40, 5)
    logits = queries @ tokens.T
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        kept_logits, kept_tokens = select_tokens(queries, tokens, num_kept)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(kept_logits, logits.gather(-1, kept_tokens))
    torch.testing.assert_close(kept_logits.sort(dim=-1).values, logits.sort(dim=-1).values[:, -num_kept:])


@pytest.mark.parametrize("num_kept", [2, 4])
def test_bottleneck_keeps_its_number_of_tied_tokens(num_kept):
    queries, tokens = torch.ones(1, 2, 4), torch.ones(7, 4)
    _, attention, _, kept_tokens = attend_through_bottleneck(queries, tokens, num_kept)
    torch.testing.assert_close(attention, torch.full((1, 2, num_kept), 1 / num_kept))
    assert all(len(set(row)) == num_kept for row in kept_tokens[0].tolist())


def test_loads_count_a_kept_token_whose_weight_underflows():
    attention, kept_tokens = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0, 1]]])
    expected = compute_cv_squared(torch.tensor([1.0, 0.0, 0.0])) + compute_cv_squared(torch.tensor([1.0, 1.0, 0.0]))
    assert compute_balance_loss(attention, kept_tokens, 3) == expected


def test_balance_loss_is_zero_when_all_tokens_are_used_alike():
    every_token = torch.arange(6).expand(2, 3, 6)
    assert compute_balance_loss(torch.full((2, 3, 6), 1 / 6), every_token, 6) == 0


def test_balance_loss_of_one_winner_has_its_closed_form():
    # One of L tokens takes everything: variance M^2 / L over mean (M / L)^2 is L, for importance and loads, per head.
    winner = torch.full((2, 3, 1), 4)
    torch.testing.assert_close(compute_balance_loss(torch.ones(2, 3, 1), winner, 5), torch.tensor(2 * 2 * 5.0))


def test_cv_squared_of_a_single_value_is_zero():
    assert compute_cv_squared(torch.tensor([[3.0]])).tolist() == [0.0]


def test_average_memory_has_unit_rows_and_keeps_zero_rows_finite():
    memory, written = torch.randn(4, 8), torch.randn(4, 8)
    memory[1], written[1] = 0, 0
    memory.requires_grad_()
    averaged = average_memory(memory, written, update_rate=0.1)
    torch.testing.assert_close(averaged.norm(dim=-1), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    averaged.sum().backward()
    assert memory.grad.isfinite().all()


def test_update_rate_zero_keeps_direction_and_one_forgets():
    memory, written = torch.randn(4, 8), torch.randn(4, 8)
    normalize = torch.nn.functional.normalize
    torch.testing.assert_close(average_memory(memory, written, 0.0), normalize(memory, dim=-1))
    torch.testing.assert_close(average_memory(memory, written, 1.0), normalize(written, dim=-1))


def test_write_changes_nothing_and_does_not_depend_on_the_order_of_tokens(make_config):
    write = AiTMemoryWrite(make_config())
    memory, tokens = torch.randn(3, 4), torch.randn(4, 6, 16)
    state = {name: tensor.clone() for name, tensor in write.state_dict().items()}
    memory_before = memory.clone()
    new_memory, balance_loss, attention = write(memory, tokens, output_write_attentions=True)
    assert torch.equal(memory, memory_before)
    assert all(torch.equal(state[name], tensor) for name, tensor in write.state_dict().items())
    assert attention.shape == (2, 3, 4, 6)

    order = torch.randperm(24)
    shuffled = tokens.flatten(0, 1)[order].view(4, 6, 16)
    torch.testing.assert_close(write(memory, shuffled)[0], new_memory, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(write(memory, shuffled)[1], balance_loss, rtol=1e-5, atol=1e-6)


def test_write_attention_is_built_on_request_only(make_config):
    write = AiTMemoryWrite(make_config(bottleneck_size=5))
    memory, tokens = torch.randn(3, 4), torch.randn(4, 6, 16)
    assert write(memory, tokens)[2] is None
    attention = write(memory, tokens, output_write_attentions=True)[2].flatten(-2)  # (num_heads, num_slots, 24)
    assert (attention > 0).sum(dim=-1).tolist() == [[5] * 3] * 2
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 3))


def test_write_dropout_acts_in_training_only(make_config):
    write = AiTMemoryWrite(make_config(memory_dropout_prob=0.5))
    memory, tokens = torch.randn(3, 4), torch.randn(2, 6, 16)
    assert not torch.equal(write.train()(memory, tokens)[0], write(memory, tokens)[0])
    assert torch.equal(write.eval()(memory, tokens)[0], write(memory, tokens)[0])


@pytest.mark.parametrize(("batch_size", "num_tokens"), [(1, 1), (1, 6), (5, 1)])
def test_write_of_small_batches_is_finite(make_config, batch_size, num_tokens):
    new_memory, balance_loss, _ = AiTMemoryWrite(make_config())(
        torch.randn(3, 4), torch.randn(batch_size, num_tokens, 16)
    )
    assert new_memory.isfinite().all()
    assert balance_loss.isfinite()
