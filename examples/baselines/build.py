"""The list of architectures, and how each is built from the configuration of an AiT."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from examples.baselines.common import OWN_FIELDS, SHARED_FIELDS, BaselineConfig, BaselineModel
from examples.baselines.coordination import CoordinationModel
from examples.baselines.perceiver import PerceiverModel
from examples.baselines.relation_network import RelationNetworkModel
from examples.baselines.set_transformer import SetTransformerModel
from examples.errors import InputError, refuse_unknown_keys
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


def build_ait(config: AiTConfig, **overrides: Any) -> PreTrainedModel:
    """An AiT, with or without a question."""
    config = AiTConfig.from_dict({**config.to_dict(), **overrides}) if overrides else config
    return (AiTForImageClassification if config.question_size is None else AiTForRelationalReasoning)(config)


def build_ait_no_workspace(config: AiTConfig, **overrides: Any) -> PreTrainedModel:
    """The same model without a workspace: the workspace is the only difference, and its parameters are missing."""
    return build_ait(config, num_memory_slots=0, **overrides)


def build_ait_no_workspace_wide_mlp(config: AiTConfig) -> PreTrainedModel:
    """The same model without a workspace, its MLP widened to the AiT's number of parameters."""
    width = match_intermediate_size(build_ait_no_workspace, config, {})
    return build_ait_no_workspace(config, intermediate_size=width)


def build_vit(config: AiTConfig, **overrides: Any) -> PreTrainedModel:
    """Transformers' ViT of the same depth, width and heads, with its own head, positions and linear patches."""
    if config.question_size is not None:
        raise InputError(
            "The architecture 'vit' takes no question. On Sort-of-CLEVR use 'ait_no_workspace', which has a question "
            "token."
        )
    shared = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "hidden_act",
        "initializer_range",
        "layer_norm_eps",
        "image_size",
        "patch_size",
        "num_channels",
        "id2label",
        "label2id",
    )
    return ViTForImageClassification(ViTConfig(**{**{name: getattr(config, name) for name in shared}, **overrides}))


@dataclass(frozen=True)
class Architecture:
    """
    An architecture to choose by name.

    Args:
        description: What it is, for a list in a help text.
        build: Builds it from the configuration of an AiT and, but for AiT itself, fields that differ.
        fields: Fields that `baseline_config` may change.
        is_matched: Whether the width of its MLP may be chosen so that it has as many parameters as the AiT.
    """

    description: str
    build: Callable[..., PreTrainedModel]
    fields: frozenset[str] = frozenset()
    is_matched: bool = False


def describe_baseline(
    model_class: type[BaselineModel], description: str, is_matched: bool = True, **defaults: Any
) -> Architecture:
    """Enter a baseline, with the fields of its published design that are not the AiT's."""

    def build(config: AiTConfig, **overrides: Any) -> PreTrainedModel:
        return model_class(BaselineConfig.from_ait(config, **{**defaults, **overrides}))

    return Architecture(description, build, frozenset((*SHARED_FIELDS, *OWN_FIELDS)), is_matched)


ARCHITECTURES: dict[str, Architecture] = {
    "ait": Architecture("the Associative Transformer", build_ait),
    "ait_no_workspace": Architecture("the workspace is the only difference", build_ait_no_workspace),
    "ait_no_workspace_wide_mlp": Architecture(
        "the same with as many parameters as the AiT", build_ait_no_workspace_wide_mlp
    ),
    "vit": Architecture("transformers' ViT", build_vit, frozenset(ViTConfig().to_dict()), is_matched=True),
    # Depth and dropout are part of the published design.
    "coordination": describe_baseline(
        CoordinationModel, "TR+HSW, a workspace for each sample", num_hidden_layers=4, hidden_dropout_prob=0.1
    ),
    "set_transformer": describe_baseline(SetTransformerModel, "attention through inducing points"),
    "perceiver": describe_baseline(PerceiverModel, "attention through latents", num_slots=32),
    # Published with a size of its own, and without anything in common with the AiT's.
    "relation_network": describe_baseline(
        RelationNetworkModel, "an MLP on all pairs of cells", is_matched=False, intermediate_size=256
    ),
}


def count_parameters(model: torch.nn.Module) -> int:
    """Number of parameters; memories are buffers and do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def match_intermediate_size(build: Callable[..., PreTrainedModel], config: AiTConfig, overrides: dict) -> int:
    """The width of the MLP with which an architecture comes closest to the AiT's number of parameters."""

    def count(intermediate_size: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(config, **{**overrides, "intermediate_size": intermediate_size}))

    with torch.device("meta"):
        target = count_parameters(build_ait(config))
    # The count is linear in the width, but for the Perceiver, whose MLP is a whole multiple of its own.
    step = config.hidden_size
    slope = (count(9 * step) - count(step)) / (8 * step)
    # An MLP narrower than half the model would not be the design any more.
    narrowest = step // 2
    width = max(narrowest, round(step + (target - count(step)) / slope))
    candidates = {width, max(narrowest, width // step * step), (width // step + 1) * step}
    return min(candidates, key=lambda size: (abs(count(size) - target), size))


def build_architecture(
    name: str,
    config: AiTConfig,
    baseline_config: dict[str, dict[str, Any]] | None = None,
    match_parameters: bool = True,
) -> PreTrainedModel:
    """
    Build a model to compare with the AiT of a configuration.

    Args:
        name: One of `ARCHITECTURES`.
        config: Configuration of the AiT.
        baseline_config: Fields that differ in the baselines' own configurations, by architecture.
        match_parameters: Whether to choose the width of the MLP so that the number of parameters is the AiT's, where
            the design has that freedom and `baseline_config` does not name it.

    Raises:
        InputError: for an unknown architecture, fields that it does not have, or a task that it cannot do.
    """
    refuse_unknown_keys({name: None, **(baseline_config or {})}, set(ARCHITECTURES), "The list of architectures")
    architecture = ARCHITECTURES[name]
    overrides = dict((baseline_config or {}).get(name, {}))
    if overrides and not architecture.fields:
        raise InputError(f"The architecture {name!r} takes its fields from `model_config`, not `baseline_config`.")
    refuse_unknown_keys(overrides, set(architecture.fields), f"`baseline_config` of {name!r}")
    if match_parameters and architecture.is_matched and "intermediate_size" not in overrides:
        overrides["intermediate_size"] = match_intermediate_size(architecture.build, config, overrides)
    return architecture.build(config, **overrides)
