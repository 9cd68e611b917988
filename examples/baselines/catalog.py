"""The table of architectures. It imports none of them, so that a help text need not wait for torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """
    An architecture to choose by name.

    Args:
        description: What it is, for a list in a help text.
        builder: Where it is, as "module:name": a subclass of `BaselineModel`, or a function that builds a model from
            the configuration of an AiT and fields that differ.
        fields: Fields that `baseline_config` may change: those that the model reads, without those of the task.
        is_matched: Whether the width of its MLP may be chosen so that it has as many parameters as the AiT.
        defaults: Fields of its published design that are not the AiT's.
    """

    description: str
    builder: str
    fields: tuple[str, ...] = ()
    is_matched: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
# What `AiTEmbeddings` reads, or the layers behind it.
TOKENS = (*SIZES, "hidden_dropout_prob", "initializer_range", "layer_norm_eps", "stem_strides", "stem_channels")
VIT = (
    *(*SIZES, "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"),
    *("layer_norm_eps", "qkv_bias"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "ait": Architecture("the Associative Transformer", "examples.baselines.build:build_ait"),
    "ait_no_workspace": Architecture(
        "the workspace is the only difference", "examples.baselines.build:build_ait_no_workspace"
    ),
    "ait_no_workspace_wide_mlp": Architecture(
        "the same with as many parameters as the AiT", "examples.baselines.build:build_ait_no_workspace_wide_mlp"
    ),
    "vit": Architecture("transformers' ViT", "examples.baselines.build:build_vit", VIT, is_matched=True),
    "coordination": Architecture(
        "TR+HSW, a workspace for each sample",
        "examples.baselines.coordination:CoordinationModel",
        (*TOKENS, "num_slots", "top_k"),
        is_matched=True,
        # Depth and dropout are part of the published design.
        defaults={"num_hidden_layers": 4, "hidden_dropout_prob": 0.1},
    ),
    "set_transformer": Architecture(
        "attention through inducing points",
        "examples.baselines.set_transformer:SetTransformerModel",
        (*TOKENS, "num_slots"),
        is_matched=True,
    ),
    "perceiver": Architecture(
        "attention through latents",
        "examples.baselines.perceiver:PerceiverModel",
        (*TOKENS, "num_slots"),
        is_matched=True,
        defaults={"num_slots": 32},
    ),
    # Published with a size of its own, and without anything in common with the AiT's.
    "relation_network": Architecture(
        "an MLP on all pairs of cells",
        "examples.baselines.relation_network:RelationNetworkModel",
        ("intermediate_size",),
        defaults={"intermediate_size": 256},
    ),
}
