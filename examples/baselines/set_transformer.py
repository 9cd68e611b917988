"""Set Transformer (Lee et al., 2019, arXiv 1810.00825): attention through a few inducing points."""

import torch
from torch import nn
from transformers import initialization as init

from examples.baselines.common import BaselineConfig, BaselineModel
from modeling_ait.embeddings_ait import AiTEmbeddings


class AttentionBlock(nn.Module):
    """MAB: attention from one set to another, then a feed-forward layer, each with a residual and a norm after it."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        width = config.hidden_size
        self.attention = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.intermediate_size), nn.ReLU(), nn.Linear(config.intermediate_size, width)
        )
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        attended = self.layernorm_before(queries + self.attention(queries, tokens, tokens, need_weights=False)[0])
        return self.layernorm_after(attended + self.mlp(attended))


class LearnedQueries(nn.Module):
    """Learned points that attend to a set, (B, N, E) -> (B, num_points, E)."""

    def __init__(self, config: BaselineConfig, num_points: int):
        super().__init__()
        self.points = nn.Parameter(torch.zeros(1, num_points, config.hidden_size))
        self.block = AttentionBlock(config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.block(self.points.expand(len(tokens), -1, -1), tokens)


class InducedLayer(nn.Module):
    """ISAB: the tokens attend to inducing points that have attended to the tokens."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        self.induce = LearnedQueries(config, config.num_slots)
        self.block = AttentionBlock(config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.block(tokens, self.induce(tokens))


class SetTransformerModel(BaselineModel):
    """Induced layers over the embedded patches, pooled by attention (PMA)."""

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.embeddings = AiTEmbeddings(config)
        self.layers = nn.Sequential(*(InducedLayer(config) for _ in range(config.num_hidden_layers)))
        self.pool = LearnedQueries(config, 1)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    def compute_logits(self, pixel_values: torch.Tensor, question: torch.Tensor | None) -> torch.Tensor:
        return self.classifier(self.pool(self.layers(self.embeddings(pixel_values, question)))[:, 0])

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LearnedQueries):
            init.xavier_uniform_(module.points)
