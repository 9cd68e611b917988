"""Continuous Hopfield retrieval and its energy (Ramsauer et al., 2021), as pure functions."""

import math

import torch
from torch import nn


def retrieve_patterns(
    states: torch.Tensor, patterns: torch.Tensor, beta: float, num_steps: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Move every state towards the patterns that it resembles, (..., E) -> (..., E).

    One step is \\(softmax(\beta\, \xi Y^T)\, Y\\) (AiT, section "Hopfield networks"; Ramsauer et al., equation 3). It
    never raises the energy of [`compute_energy`]. Each state is on its own: other states do not matter.

    Args:
        states (`torch.Tensor` of shape `(..., hidden_size)`): The states xi.
        patterns (`torch.Tensor` of shape `(num_patterns, hidden_size)`): The stored patterns Y.
        beta (`float`): Inverse temperature.
        num_steps (`int`, *optional*, defaults to 1): Number of steps.

    Returns:
        The new states, in the dtype of `states`, and the attention of the last step,
        of shape `(..., num_patterns)`, whose rows sum to 1.
    """
    for _ in range(num_steps):
        logits = beta * torch.matmul(states, patterns.transpose(-1, -2))  # (..., num_patterns)
        # The logits are unscaled dot products of wide vectors: in half precision their softmax would lose its sum.
        attention = nn.functional.softmax(logits, dim=-1, dtype=torch.float32).to(states.dtype)
        states = torch.matmul(attention, patterns.to(attention.dtype)).to(states.dtype)  # (..., hidden_size)
    return states, attention


def compute_energy(states: torch.Tensor, patterns: torch.Tensor, beta: float) -> torch.Tensor:
    r"""
    Energy of states in the landscape of the patterns, (..., E) -> (...), always in float32.

    \\(E(x) = -\frac1\beta \ln \sum_i e^{\beta y_i x} + \frac12 x x + \frac1\beta \ln M + \frac12 \max_i |y_i|^2\\)
    (Ramsauer et al., equation 2).

    Args:
        states (`torch.Tensor` of shape `(..., hidden_size)`): The states x.
        patterns (`torch.Tensor` of shape `(num_patterns, hidden_size)`): The M stored patterns y.
        beta (`float`): Inverse temperature.
    """
    states, patterns = states.float(), patterns.float()
    similarities = torch.matmul(states, patterns.transpose(-1, -2))  # (..., num_patterns)
    return (
        -torch.logsumexp(beta * similarities, dim=-1) / beta
        + 0.5 * states.square().sum(dim=-1)
        + math.log(patterns.shape[-2]) / beta
        + 0.5 * patterns.square().sum(dim=-1).max()
    )
