"""Coordination among neural modules through a shared workspace: TR+HSW (Goyal et al., 2022, arXiv 2103.01197)."""

import math

import torch
from torch import nn
from transformers import initialization as init

from examples.baselines.common import BaselineConfig, BaselineModel
from modeling_ait.embeddings_ait import AiTEmbeddings


def make_sinusoidal_positions(num_tokens: int, hidden_size: int) -> torch.Tensor:
    """The fixed positions of Vaswani et al. (2017), (1, num_tokens, hidden_size)."""
    positions = torch.arange(num_tokens).unsqueeze(1)
    frequencies = torch.exp(torch.arange(0, hidden_size, 2) * (-math.log(10_000.0) / hidden_size))
    table = torch.zeros(1, num_tokens, hidden_size)
    table[0, :, 0::2] = torch.sin(positions * frequencies)
    table[0, :, 1::2] = torch.cos(positions * frequencies)[:, : hidden_size // 2]
    return table


class FixedPositionEmbeddings(AiTEmbeddings):
    """The embeddings of AiT behind a CLS token, with fixed positions."""

    def __init__(self, config: BaselineConfig):
        super().__init__(
            BaselineConfig.from_dict({**config.to_dict(), "pooling": "cls", "position_embedding_type": "none"})
        )
        del self.position_embeddings
        positions = make_sinusoidal_positions(self.num_tokens, config.hidden_size)
        self.register_buffer("position_embeddings", positions, persistent=False)


class WorkspaceWrite(nn.Module):
    """Write the tokens of one sample into its slots, (B, S, E), (B, N, E) -> (B, S, E)."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.top_k = config.num_attention_heads, config.top_k
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.token_gates, self.slot_gates = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)

    def forward(self, slots: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            projection.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj(slots), self.k_proj(tokens), self.v_proj(tokens))
        )  # (batch_size, num_heads, num_slots or num_tokens, head_dim)
        weights = (query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).softmax(dim=-1)
        if self.top_k < weights.shape[-1]:
            # The softmax comes first: what is kept does not sum to 1.
            kept = weights.topk(self.top_k, dim=-1)
            weights = torch.zeros_like(weights).scatter(-1, kept.indices, kept.values)
        written = (weights @ value).transpose(1, 2).flatten(2)  # (batch_size, num_slots, hidden_size)
        new = self.layernorm_before(slots + written)
        new = self.layernorm_after(new + self.mlp(new))
        gates = self.token_gates(tokens.relu()).mean(dim=1, keepdim=True) + self.slot_gates(slots.tanh())
        input_gate, forget_gate = gates.chunk(2, dim=-1)
        return input_gate.sigmoid() * new.tanh() + (forget_gate + 1).sigmoid() * slots


class CoordinationLayer(nn.Module):
    """A pre-norm transformer layer whose tokens read the workspace instead of each other."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        width = config.hidden_size
        self.write = WorkspaceWrite(config)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.broadcast = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.intermediate_size),
            nn.ReLU(),
            nn.Dropout(config.hidden_dropout_prob),
            nn.Linear(config.intermediate_size, width),
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = self.layernorm_before(tokens)
        slots = self.write(slots, normed)
        tokens = tokens + self.dropout(self.broadcast(normed, slots, slots, need_weights=False)[0])
        return tokens + self.dropout(self.mlp(self.layernorm_after(tokens))), slots


class CoordinationModel(BaselineModel):
    """Layers that share their weights and carry a workspace, made anew for every sample, from one to the next."""

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.embeddings = FixedPositionEmbeddings(config)
        self.layer = CoordinationLayer(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    def compute_logits(self, pixel_values: torch.Tensor, question: torch.Tensor | None) -> torch.Tensor:
        tokens = self.embeddings(pixel_values, question)
        slots = torch.eye(self.config.num_slots, self.config.hidden_size).to(tokens).expand(len(tokens), -1, -1)
        for _ in range(self.config.num_hidden_layers):
            tokens, slots = self.layer(tokens, slots)
        return self.classifier(self.layernorm(tokens[:, 0]))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, FixedPositionEmbeddings):
            positions = make_sinusoidal_positions(module.num_tokens, self.config.hidden_size)
            init.copy_(module.get_buffer("position_embeddings"), positions)
