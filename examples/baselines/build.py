"""Building an architecture of the table from the configuration of an AiT."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from examples.baselines.catalog import ARCHITECTURES
from examples.baselines.common import BaselineConfig
from examples.errors import InputError, flatten_message, refuse_unknown_keys
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


WIDE_MLP = "ait_no_workspace_wide_mlp"


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
    try:
        vit_config = ViTConfig(**{**{name: getattr(config, name) for name in shared}, **overrides})
    except StrictDataclassError as error:
        raise InputError(f"`baseline_config` of 'vit' does not work: {flatten_message(error)}") from error
    if vit_config.hidden_size % vit_config.num_attention_heads:
        raise InputError(
            f"`num_attention_heads` of 'vit' must be a divisor of `hidden_size` ({vit_config.hidden_size}), but got "
            f"{vit_config.num_attention_heads}."
        )
    return ViTForImageClassification(vit_config)


def find_builder(name: str) -> Callable[..., PreTrainedModel]:
    """Import an architecture and return what builds it from the configuration of an AiT and fields that differ."""
    architecture = ARCHITECTURES[name]
    found: Any = resolve_name(architecture.builder)
    if not isinstance(found, type):
        return found

    def build(config: AiTConfig, **overrides: Any) -> PreTrainedModel:
        return found(BaselineConfig.from_ait(config, **{**architecture.defaults, **overrides}))

    return build


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


def check_fields(name: str, fields: Any) -> None:
    """Raise an `InputError` for fields of `baseline_config` that are no mapping, or that an architecture ignores."""
    if not isinstance(fields, dict):
        raise InputError(f"`baseline_config` of {name!r} must be a mapping of fields, but got {fields!r}.")
    allowed = ARCHITECTURES[name].fields
    if fields and not allowed:
        raise InputError(f"The architecture {name!r} takes its fields from `model_config`, not `baseline_config`.")
    refuse_unknown_keys(fields, set(allowed), f"`baseline_config` of {name!r}")


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
    given = baseline_config or {}
    refuse_unknown_keys([name, *given], set(ARCHITECTURES), "The choice of architectures")
    for other, fields in given.items():
        check_fields(other, fields)
    architecture, build = ARCHITECTURES[name], find_builder(name)
    overrides = dict(given.get(name, {}))
    if not match_parameters and name == WIDE_MLP:
        raise InputError(f"{name!r} has the AiT's number of parameters by design: leave out `match_parameters` False.")
    if match_parameters and architecture.is_matched and "intermediate_size" not in overrides:
        overrides["intermediate_size"] = match_intermediate_size(build, config, overrides)
    return build(config, **overrides)
