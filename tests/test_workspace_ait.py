"""The write: bottleneck selection, balance loss and moving average."""

import pytest
import torch

from modeling_ait.workspace_ait import (
    AiTMemoryWrite,
    attend_through_bottleneck,
    average_memory,
    compute_balance_loss,
    compute_cv_squared,
)


def draw_heads(num_heads=2, num_slots=3, num_tokens=7, head_dim=4):
    return (
        torch.randn(num_heads, num_slots, head_dim),
        torch.randn(num_heads, num_tokens, head_dim),
        torch.randn(num_heads, num_tokens, head_dim),
    )


@pytest.mark.parametrize("bottleneck_size", [1, 3, 7, 8, None])
def test_bottleneck_keeps_exactly_the_largest_logits(bottleneck_size):
    query, key, value = draw_heads()
    attended, attention, loads = attend_through_bottleneck(query, key, value, bottleneck_size)
    num_kept = min(bottleneck_size or 7, 7)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 3))
    assert ((attention > 0).sum(dim=-1) == num_kept).all()
    assert loads.sum(dim=-1).tolist() == [3 * num_kept] * 2
    logits = torch.einsum("smd,sld->sml", query, key) / 2
    weakest_kept = torch.where(attention > 0, logits, torch.inf).amin(dim=-1)
    strongest_dropped = torch.where(attention > 0, -torch.inf, logits).amax(dim=-1)
    assert (weakest_kept > strongest_dropped).all()
    torch.testing.assert_close(attended, attention @ value)


def test_loads_count_a_kept_token_whose_weight_underflows():
    query, key = torch.ones(1, 1, 1), torch.tensor([[[1e3], [0.0], [-1e3]]])
    _, attention, loads = attend_through_bottleneck(query, key, torch.ones(1, 3, 1), bottleneck_size=2)
    assert attention[0, 0].tolist() == [1.0, 0.0, 0.0]
    assert loads[0].tolist() == [1.0, 1.0, 0.0]


def test_bottleneck_keeps_its_number_of_tied_tokens():
    query, key, value = torch.ones(1, 2, 4), torch.ones(1, 6, 4), torch.randn(1, 6, 4)
    _, attention, loads = attend_through_bottleneck(query, key, value, bottleneck_size=4)
    assert ((attention > 0).sum(dim=-1) == 4).all()
    assert loads.sum() == 8


def test_balance_loss_is_zero_when_all_tokens_are_used_alike():
    attention = torch.full((2, 3, 6), 1 / 6)
    assert compute_balance_loss(attention, torch.full((2, 6), 3.0)) == 0


def test_balance_loss_of_one_winner_has_its_closed_form():
    # One of L tokens takes everything: variance M^2 / L over mean (M / L)^2 is L, for importance and loads, per head.
    attention = torch.zeros(2, 3, 5)
    attention[:, :, 4] = 1
    loads = torch.tensor([[0.0, 0.0, 0.0, 0.0, 3.0]]).expand(2, -1)
    torch.testing.assert_close(compute_balance_loss(attention, loads), torch.tensor(2 * 2 * 5.0))


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
    new_memory, balance_loss, attention = write(memory, tokens)
    assert torch.equal(memory, memory_before)
    assert all(torch.equal(state[name], tensor) for name, tensor in write.state_dict().items())
    assert attention.shape == (2, 3, 4, 6)

    order = torch.randperm(24)
    shuffled = tokens.flatten(0, 1)[order].view(4, 6, 16)
    torch.testing.assert_close(write(memory, shuffled)[0], new_memory, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(write(memory, shuffled)[1], balance_loss, rtol=1e-5, atol=1e-6)


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
