"""Self-attention of AiT within a sample, and of questions that see the image and themselves only."""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_ait import AiTConfig


def eager_attention_forward(
    module: nn.Module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **kwargs
) -> tuple[torch.Tensor, torch.Tensor]:
    attention = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch_size, num_heads, num_tokens, num_tokens)
    if attention_mask is not None:
        attention = attention + attention_mask
    attention = nn.functional.softmax(attention, dim=-1, dtype=torch.float32).to(query.dtype)
    attention = nn.functional.dropout(attention, p=dropout, training=module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


def attend_to_image_and_self(
    query: torch.Tensor,
    own_key: torch.Tensor,
    own_value: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Let each question attend to the tokens of its image and to itself, (B, H, Q, D), (B, H, N, D) -> (B, Q, H, D).

    No mask is needed, and the cost is linear in the number of questions: a question's own logit is one product.

    Args:
        query, own_key, own_value (`torch.Tensor` of shape `(batch_size, num_heads, num_questions, head_dim)`):
            Projected questions.
        key, value (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_dim)`): Projected image tokens.
        scaling (`float`): Factor of the logits.
        dropout (`float`, *optional*, defaults to 0.0): Probability with which a weight is dropped now.

    Returns:
        The attended values, and the attention `(batch_size, num_heads, num_questions, num_tokens + 1)`, whose last
        column is the question itself.
    """
    own_logits = (query * own_key).sum(dim=-1, keepdim=True)
    logits = torch.cat([torch.matmul(query, key.transpose(2, 3)), own_logits], dim=-1) * scaling
    # At least float32, since half precision loses the sum of a softmax.
    attention = nn.functional.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    attention = nn.functional.dropout(attention.to(query.dtype), p=dropout)
    attended = torch.matmul(attention[..., :-1], value) + attention[..., -1:] * own_value
    return attended.transpose(1, 2), attention


class AiTAttention(nn.Module):
    """
    Multi-head self-attention within a sample, (B, N, E) -> (B, N, E).

    The last `num_questions` tokens, if any, see the tokens before them and themselves, and no other token sees them.
    The attention is then of shape (B, H, N, N - num_questions + 1), whose last column is a question's own weight.
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.scaling = self.head_dim**-0.5
        self.is_causal = False

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, num_questions: int = 0, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)  # (batch_size, heads, tokens, head_dim)
        key = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        if num_questions > 0:
            lengths = [input_shape[1] - num_questions, num_questions]
            query, question_query = query.split(lengths, dim=2)
            key, question_key = key.split(lengths, dim=2)
            value, question_value = value.split(lengths, dim=2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended, attention = attention_interface(
            self, query, key, value, None, dropout=dropout, scaling=self.scaling, **kwargs
        )
        if num_questions > 0:
            question_attended, question_attention = attend_to_image_and_self(
                question_query, question_key, question_value, key, value, self.scaling, dropout
            )
            attended = torch.cat([attended, question_attended], dim=1)
            if attention is not None:
                attention = torch.cat([nn.functional.pad(attention, (0, 1)), question_attention], dim=2)
        return self.o_proj(attended.reshape(*input_shape, -1).contiguous()), attention
