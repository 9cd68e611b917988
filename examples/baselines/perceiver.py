"""Perceiver (Jaegle et al., 2021): transformers' encoder and decoder on the patch embeddings of AiT."""

import torch
from transformers import PerceiverConfig
from transformers import PerceiverModel as TransformersPerceiverModel
from transformers.models.perceiver.modeling_perceiver import PerceiverClassificationDecoder

from examples.baselines.common import BaselineConfig, BaselineModel
from modeling_ait.embeddings_ait import AiTEmbeddings


class PerceiverModel(BaselineModel):
    """Latents that read the patches once and attend to themselves `num_hidden_layers` times."""

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        width = config.hidden_size
        inner_config = PerceiverConfig(
            num_latents=config.num_slots,
            d_latents=width,
            d_model=width,
            num_blocks=1,
            num_self_attends_per_block=config.num_hidden_layers,
            num_self_attention_heads=config.num_attention_heads,
            num_cross_attention_heads=config.num_attention_heads,
            # Transformers' Perceiver takes whole multiples of its width only.
            self_attention_widening_factor=max(1, round(config.intermediate_size / width)),
            cross_attention_widening_factor=1,
            attention_probs_dropout_prob=config.hidden_dropout_prob,
            initializer_range=(3 * width) ** -0.5,
            id2label=config.id2label,
        )
        self.embeddings = AiTEmbeddings(config)
        self.perceiver = TransformersPerceiverModel(
            inner_config,
            decoder=PerceiverClassificationDecoder(
                inner_config,
                num_channels=width,
                trainable_position_encoding_kwargs={"num_channels": width, "index_dims": 1},
                use_query_residual=True,
            ),
        )
        self.post_init()

    def compute_logits(self, pixel_values: torch.Tensor, question: torch.Tensor | None) -> torch.Tensor:
        return self.perceiver(inputs=self.embeddings(pixel_values, question)).logits
