"""Retrieval and energy as pure functions."""

import math

import pytest
import torch

from modeling_ait import compute_energy, retrieve_patterns


@pytest.mark.parametrize("beta", [0.1, 1.0, 8.0])
def test_retrieval_never_raises_the_energy(beta):
    patterns, states = torch.randn(5, 12), 3 * torch.randn(40, 12)
    energy = compute_energy(states, patterns, beta)
    for _ in range(6):
        states, _ = retrieve_patterns(states, patterns, beta)
        lower = compute_energy(states, patterns, beta)
        assert (lower <= energy + 1e-4 * energy.abs().clamp(min=1)).all()
        energy = lower


def test_energy_equals_its_formula():
    patterns, state, beta = torch.randn(3, 4).double(), torch.randn(4).double(), 0.7
    similarities = [float(pattern @ state) for pattern in patterns]
    expected = (
        -math.log(sum(math.exp(beta * value) for value in similarities)) / beta
        + 0.5 * float(state @ state)
        + math.log(3) / beta
        + 0.5 * max(float(pattern @ pattern) for pattern in patterns)
    )
    assert float(compute_energy(state, patterns, beta)) == pytest.approx(expected, rel=1e-5)


def test_high_beta_retrieves_the_stored_pattern():
    patterns = torch.nn.functional.normalize(torch.randn(6, 32), dim=-1)
    noisy = patterns + 0.05 * torch.randn(6, 32)
    retrieved, attention = retrieve_patterns(noisy, patterns, beta=200.0)
    torch.testing.assert_close(retrieved, patterns, rtol=0, atol=1e-3)
    assert attention.argmax(dim=-1).tolist() == list(range(6))


def test_retrieval_steps_compose():
    patterns, states = torch.randn(5, 8), torch.randn(2, 3, 8)
    twice, attention = retrieve_patterns(states, patterns, beta=0.5, num_steps=2)
    once, _ = retrieve_patterns(states, patterns, beta=0.5)
    torch.testing.assert_close(twice, retrieve_patterns(once, patterns, beta=0.5)[0])
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 3))


def test_retrieval_keeps_the_dtype_and_energy_is_float32():
    patterns, states = torch.randn(5, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    retrieved, attention = retrieve_patterns(states, patterns, beta=1.0)
    assert retrieved.dtype == attention.dtype == torch.bfloat16
    assert compute_energy(states, patterns, beta=1.0).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_in_half_precision_is_computed_in_float32(softmax_dtypes, dtype):
    patterns, states = torch.randn(50, 16).to(dtype), torch.randn(40, 16).to(dtype)
    with softmax_dtypes:
        _, attention = retrieve_patterns(states, patterns, beta=1.0, num_steps=2)
    assert attention.dtype == dtype
    assert softmax_dtypes.dtypes == [torch.float32] * 2


def test_energy_in_half_precision_is_that_of_the_same_numbers_in_float32():
    patterns, states = torch.randn(5, 64).bfloat16(), 4 * torch.randn(9, 64).bfloat16()
    assert torch.equal(compute_energy(states, patterns, 0.7), compute_energy(states.float(), patterns.float(), 0.7))
