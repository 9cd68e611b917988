"""What the baselines share: a configuration, and the classifier around their own part."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from modeling_ait import AiTConfig
from modeling_ait.configuration_ait import strict_config
from modeling_ait.embeddings_ait import AiTEmbeddings


# Fields of `AiTConfig` that mean the same for a baseline. The others keep their defaults, whatever the AiT has.
SHARED_FIELDS = (
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
    "stem_channels",
    "id2label",
    "label2id",
)
OWN_FIELDS = ("num_slots", "top_k")


@strict_config
class BaselineConfig(AiTConfig):
    r"""
    Configuration of a baseline: `SHARED_FIELDS` of an AiT's, and its own.

    Args:
        num_slots (`int`, *optional*, defaults to 8):
            Workspace slots (Coordination), inducing points (Set Transformer) or latents (Perceiver).
        top_k (`int`, *optional*, defaults to 5):
            Tokens that each slot keeps (Coordination).
    """

    model_type = "ait_baseline"
    # The code of AiT, which would otherwise be saved beside the weights, does not open a baseline.
    _auto_class = None

    num_slots: int = 8
    top_k: int = 5

    def validate_architecture(self):
        super().validate_architecture()
        for name in OWN_FIELDS:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be a positive integer, but got {getattr(self, name)!r}.")

    @classmethod
    def from_ait(cls, config: AiTConfig, **overrides: Any) -> "BaselineConfig":
        """Take over what a baseline shares with an AiT."""
        return cls(**{**{name: getattr(config, name) for name in SHARED_FIELDS}, **overrides})


class BaselineModel(PreTrainedModel):
    """
    A classifier of images, or of images with a question.

    A subclass implements `compute_logits`.
    """

    config: BaselineConfig
    config_class = BaselineConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    def compute_logits(self, pixel_values: torch.Tensor, question: torch.Tensor | None) -> torch.Tensor:
        """Classify, (B, C, H, W), (B, question_size) -> (B, num_labels)."""
        raise NotImplementedError

    def forward(
        self,
        pixel_values: torch.Tensor,
        question: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        """
        Classify, and with labels compute the loss.

        Args:
            pixel_values: Images, (batch_size, num_channels, height, width).
            question: Questions, (batch_size[, num_questions], question_size), if and only if the configuration has a
                `question_size`. Several for an image are samples with a copy of it each.
            labels: Classes, (batch_size[, num_questions]), or their shares, with a last dimension of num_labels.

        Raises:
            ValueError: if images or question do not fit the configuration, or the logits of a subclass do not.
        """
        if (question is None) != (self.config.question_size is None):
            raise ValueError("`question` must be given if and only if the configuration has a `question_size`.")
        shape = [len(pixel_values)]
        if question is not None and question.dim() == 3:
            shape = list(question.shape[:2])
            pixel_values, question = pixel_values.repeat_interleave(shape[1], dim=0), question.flatten(0, 1)
        logits = self.compute_logits(pixel_values, question)
        expected = (len(pixel_values), int(self.config.num_labels or 0))
        if tuple(logits.shape) != expected:
            raise ValueError(
                f"`{type(self).__name__}.compute_logits` must return logits of the shape (batch_size, num_labels), "
                f"here {expected}, but returned {tuple(logits.shape)}."
            )
        loss = None
        if labels is not None:
            # Shares of the classes have a dimension more than classes.
            flat_labels = labels.flatten(0, -2) if labels.is_floating_point() else labels.flatten()
            loss = nn.functional.cross_entropy(logits, flat_labels)
        return ImageClassifierOutput(loss=loss, logits=logits.unflatten(0, shape))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # The variance of PyTorch, as in the published code of the baselines. A fixed `initializer_range` would
            # let the signal of a narrow network without norms die out.
            init.normal_(module.weight, std=(3 * module.weight[0].numel()) ** -0.5)
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
        elif isinstance(module, AiTEmbeddings):
            for parameter in (*module.prefix_tokens, module.position_embeddings):
                # Positions that are no parameter are fixed.
                if isinstance(parameter, nn.Parameter):
                    init.trunc_normal_(parameter, std=self.config.initializer_range)
