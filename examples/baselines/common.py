"""What the baselines share: a configuration, the embeddings of patches and question, and the classifier around it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from modeling_ait import AiTConfig
from modeling_ait.configuration_ait import make_pair
from modeling_ait.embeddings_ait import AiTPatchEmbeddings, AiTQuestionEmbeddings


@strict
class BaselineConfig(PreTrainedConfig):
    r"""
    Configuration of a baseline. What has the name of a field of `AiTConfig` means the same.

    Args:
        num_slots (`int`, *optional*, defaults to 8):
            Workspace slots (Coordination), inducing points (Set Transformer) or latents (Perceiver).
        top_k (`int`, *optional*, defaults to 5):
            Tokens that each slot keeps (Coordination).
    """

    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    image_size: int | list[int] | tuple[int, int] = 32
    patch_size: int | list[int] | tuple[int, int] = 4
    num_channels: int = 3
    question_size: int | None = None
    use_vit_norms: bool = False
    stem_strides: list[int] | None = None
    num_slots: int = 8
    top_k: int = 5

    def __post_init__(self, **kwargs: Any):
        super().__post_init__(**kwargs)
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_slots",
            "top_k",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be a positive integer, but got {getattr(self, name)!r}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must be a divisor of `hidden_size` ({self.hidden_size}), "
                f"but got {self.num_attention_heads!r}."
            )

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return make_pair(self.image_size)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return make_pair(self.patch_size)

    @classmethod
    def from_ait(cls, config: AiTConfig, **overrides: Any) -> "BaselineConfig":
        """Take over what a baseline shares with an AiT."""
        shared = (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "hidden_dropout_prob",
            "initializer_range",
            "layer_norm_eps",
            "image_size",
            "patch_size",
            "num_channels",
            "question_size",
            "stem_strides",
            "id2label",
            "label2id",
        )
        return cls(**{**{name: getattr(config, name) for name in shared}, **overrides})


def make_sinusoidal_positions(num_tokens: int, hidden_size: int) -> torch.Tensor:
    """The fixed positions of Vaswani et al. (2017), (1, num_tokens, hidden_size)."""
    positions = torch.arange(num_tokens).unsqueeze(1)
    frequencies = torch.exp(torch.arange(0, hidden_size, 2) * (-math.log(10_000.0) / hidden_size))
    table = torch.zeros(1, num_tokens, hidden_size)
    table[0, :, 0::2] = torch.sin(positions * frequencies)
    table[0, :, 1::2] = torch.cos(positions * frequencies)[:, : hidden_size // 2]
    return table


class BaselineEmbeddings(nn.Module):
    """Patch embeddings as in AiT behind a question and, on request, a CLS token, with learned or fixed positions."""

    def __init__(self, config: BaselineConfig, use_cls_token: bool = False, use_fixed_positions: bool = False):
        super().__init__()
        self.patch_embeddings = AiTPatchEmbeddings(config)  # type: ignore[arg-type]  # it has the fields that count
        self.question_embeddings = (
            None if config.question_size is None else AiTQuestionEmbeddings(config.question_size, config)  # type: ignore[arg-type]
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_cls_token else None
        self.num_tokens = self.patch_embeddings.num_patches + use_cls_token + (config.question_size is not None)
        self.use_fixed_positions = use_fixed_positions
        self.position_embeddings = (
            None if use_fixed_positions else nn.Parameter(torch.zeros(1, self.num_tokens, config.hidden_size))
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor, question: torch.Tensor | None) -> torch.Tensor:
        tokens = self.patch_embeddings(pixel_values)  # (batch_size, num_patches, hidden_size)
        if (question is None) != (self.question_embeddings is None):
            raise ValueError("`question` must be given if and only if the configuration has a `question_size`.")
        if self.question_embeddings is not None:
            tokens = torch.cat([self.question_embeddings(question), tokens], dim=1)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.position_embeddings is not None:
            return self.dropout(tokens + self.position_embeddings)
        return self.dropout(tokens + make_sinusoidal_positions(self.num_tokens, tokens.shape[-1]).to(tokens))


class BaselineModel(PreTrainedModel):
    """
    A classifier of images, or of images with a question.

    A subclass implements `encode(pixel_values, question)`, which returns the logits (batch_size, num_labels).

    `forward(pixel_values, question, labels)` takes (batch_size, num_channels, height, width), (batch_size,
    question_size) and (batch_size,), and returns `logits` (batch_size, num_labels) and, with labels, `loss`.
    """

    config: BaselineConfig
    config_class = BaselineConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    encode: Callable[..., torch.Tensor]

    def forward(
        self,
        pixel_values: torch.Tensor,
        question: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        logits = self.encode(pixel_values, question)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # The variance of PyTorch, as in the published code of the baselines. A fixed `initializer_range` would
            # let the signal of a narrow network without norms die out.
            init.normal_(module.weight, std=(3 * module.weight[0].numel()) ** -0.5)
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
        elif isinstance(module, BaselineEmbeddings):
            for parameter in (module.cls_token, module.position_embeddings):
                if parameter is not None:
                    init.trunc_normal_(parameter, std=self.config.initializer_range)
