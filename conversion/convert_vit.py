"""
Turn a pretrained ViT, DeiT or DINOv2 of transformers into an AiT with the same outputs.

    python -m conversion.convert_vit --model google/vit-base-patch16-224 --output_dir ait-vit-base

The blocks keep a ViT's norms (`use_vit_norms`), and the new workspace is neutral: its retrieval adds next to nothing
until the first training step. Classifiers become `AiTForImageClassification`, encoders `AiTModel`.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessorPil,
)
from transformers.utils import IMAGE_PROCESSOR_NAME, cached_file

from conversion.common import (
    ConversionError,
    WeightMap,
    check_statistics,
    convert_weights,
    expand_layers,
    keep,
    load_converted,
    refuse_existing_model,
    save_converted,
)
from examples.errors import LOADING_ERRORS, flatten_message, run_script
from examples.parsing import ArgumentParser
from examples.sharing import join_call
from modeling_ait import AiTConfig, AiTForImageClassification, AiTModel


# Encoders, and the classifiers that are one Linear on the normed CLS token.
ARCHITECTURES = (
    "ViTModel",
    "ViTForImageClassification",
    "DeiTModel",
    "DeiTForImageClassification",
    "Dinov2Model",
)
# Small enough to leave every logit as it was, and not 0, so that the first step's gradient reaches the whole write.
NEUTRAL_STD = 1e-8


def flatten_kernel(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """Turn a convolution into a Linear on pixels in (row, column, channel) order, (E, C, p, p) -> (E, p * p * C)."""
    return (tensor.permute(0, 2, 3, 1).flatten(1).contiguous(),)


def make_weight_map(model_type: str, config: AiTConfig, prefix: str, has_classifier: bool) -> WeightMap:
    """The table from transformers' names to ours: modules stand for weight and bias, `{layer}` for every layer."""
    is_dino = model_type == "dinov2"
    theirs = prefix + ("encoder.layer.{layer}." if is_dino else "layers.{layer}.")
    ours = "ait.layers.{layer}."
    modules = {
        theirs + ("norm1" if is_dino else "layernorm_before"): ours + "layernorm_before",
        theirs + ("norm2" if is_dino else "layernorm_after"): ours + "layernorm_after",
        theirs + "attention.o_proj": ours + "attention.o_proj",
        theirs + "mlp.fc1": ours + "mlp.fc1",
        theirs + "mlp.fc2": ours + "mlp.fc2",
        prefix + "layernorm": "ait.layernorm",
    }
    if has_classifier:
        modules["classifier"] = "classifier"
    weights = {
        f"{source}.{kind}": f"{target}.{kind}" for source, target in modules.items() for kind in ("weight", "bias")
    }
    for name in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            weights[f"{theirs}attention.{name}.{kind}"] = f"{ours}attention.{name}.{kind}"
    embeddings = prefix + "embeddings."
    weights[embeddings + "cls_token"] = "ait.embeddings.prefix_tokens.0"
    weights[embeddings + "position_embeddings"] = "ait.embeddings.position_embeddings"
    weights[embeddings + "patch_embeddings.projection.bias"] = "ait.embeddings.patch_embeddings.projection.bias"
    if model_type == "deit":
        weights[embeddings + "distillation_token"] = "ait.embeddings.prefix_tokens.1"
    return {
        **{source: ((target,), keep) for source, target in weights.items()},
        embeddings + "patch_embeddings.projection.weight": (
            ("ait.embeddings.patch_embeddings.projection.weight",),
            flatten_kernel,
        ),
    }


def fold_layer_scale(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Multiply DINOv2's per-channel scales into the projections before them, and leave them out."""
    folded = {name: tensor for name, tensor in weights.items() if "layer_scale" not in name}
    for name, scale in weights.items():
        for scale_name, projection in (
            ("layer_scale1.lambda1", "attention.o_proj"),
            ("layer_scale2.lambda1", "mlp.fc2"),
        ):
            if name.endswith(scale_name):
                target = name.removesuffix(scale_name) + projection
                folded[f"{target}.weight"] = weights[f"{target}.weight"] * scale[:, None]
                folded[f"{target}.bias"] = weights[f"{target}.bias"] * scale
    return folded


def make_config(config: PreTrainedConfig, has_classifier: bool, workspace_fields: dict[str, Any]) -> AiTConfig:
    """Describe the same transformer as an AiT, with the workspace that was asked for."""
    is_dino = config.model_type == "dinov2"
    labels: dict[str, Any] = {"id2label": config.id2label, "label2id": config.label2id} if has_classifier else {}
    return AiTConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=int(config.hidden_size * config.mlp_ratio) if is_dino else config.intermediate_size,
        hidden_act=config.hidden_act,
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        layer_norm_eps=config.layer_norm_eps,
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        qkv_bias=config.qkv_bias,
        position_embedding_type="learned",
        pooling="cls",
        use_vit_norms=True,
        num_register_tokens=1 if config.model_type == "deit" else 0,
        **labels,
        **workspace_fields,
    )


def convert_model(source: PreTrainedModel, **workspace_fields) -> AiTModel | AiTForImageClassification:
    """
    Build the AiT that computes what a ViT, DeiT or DINOv2 computes.

    Args:
        source ([`~transformers.PreTrainedModel`]):
            `ViTModel`, `ViTForImageClassification`, `DeiTModel`, `DeiTForImageClassification` or `Dinov2Model`. It is
            not changed.
        workspace_fields:
            Fields of [`AiTConfig`] that describe the workspace, such as `num_memory_slots`.

    Returns:
        A classifier with the same logits, or an encoder whose `pooler_output` is the source's normed CLS token, in
        evaluation mode.

    Raises:
        ConversionError: for another class, or a variant that AiT cannot express.
    """
    name = type(source).__name__
    config = source.config
    if name not in ARCHITECTURES:
        raise ConversionError(f"{name} cannot be converted. These can: {', '.join(ARCHITECTURES)}.")
    if getattr(config, "use_swiglu_ffn", False):
        raise ConversionError("This DINOv2 has a gated MLP (`use_swiglu_ffn`), which AiT has not: take a smaller one.")
    has_classifier = name.endswith("ForImageClassification")
    weights = source.state_dict()
    prefix = f"{source.base_model_prefix}." if has_classifier else ""
    try:
        ait_config = make_config(config, has_classifier, workspace_fields)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    if config.model_type == "dinov2":
        if "encoder.layer.0.attention.o_proj.weight" not in weights:
            raise ConversionError(
                f"transformers {transformers.__version__} names DINOv2's weights in an older way. "
                "Update transformers to convert it; the converted model works with this version too."
            )
        weights = fold_layer_scale(weights)
    ignored = [f"{prefix}embeddings.mask_token", *(key for key in weights if key.startswith("pooler."))]

    model = (AiTForImageClassification if has_classifier else AiTModel)(ait_config)
    make_workspace_neutral(model)
    expected = model.state_dict()
    weight_map = expand_layers(
        make_weight_map(config.model_type, ait_config, prefix, has_classifier), ait_config.num_hidden_layers
    )
    if not has_classifier:
        weight_map = {
            source_name: (tuple(target.removeprefix("ait.") for target in targets), transform)
            for source_name, (targets, transform) in weight_map.items()
        }
    converted = convert_weights(weights, weight_map, ignored, expected)
    load_converted(model, {**expected, **{key: tensor.clone() for key, tensor in converted.items()}})
    return model


def make_workspace_neutral(model: AiTModel | AiTForImageClassification) -> None:
    """Let the retrieval add next to nothing, by patterns next to zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("pattern_proj.weight"):
                parameter.normal_(std=NEUTRAL_STD)
            elif name.endswith("pattern_proj.bias"):
                parameter.zero_()


def fit_positions(model: AiTModel | AiTForImageClassification, processor: ViTImageProcessorPil) -> None:
    """
    Let the model take the images that its processor makes.

    A DINOv2 is published for 518 pixels with a processor that crops to 224, and interpolates its positions each time:
    the table is interpolated once, to the same values.
    """
    expected = model.config.image_shape
    images = processor(images=Image.new("RGB", (expected[1], expected[0])), return_tensors="pt")
    height, width = images["pixel_values"].shape[-2:]
    if (height, width) != expected:
        model.resize_positions((height, width))
        print(
            f"The image processor makes images of {height} x {width} pixels, the positions were made for "
            f"{expected[0]} x {expected[1]}: interpolated once."
        )


def load_source(name_or_path: str) -> PreTrainedModel:
    """
    Load the class that the checkpoint was saved from, whole.

    Raises:
        ConversionError: if it is not there, damaged, of another class, or leaves weights at random.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        architectures = config.architectures or []
        if architectures and architectures[0] not in ARCHITECTURES:
            raise ConversionError(
                f"{name_or_path!r} holds a {architectures[0]}, which cannot be converted. "
                f"These can: {', '.join(ARCHITECTURES)}."
            )
        is_classifier = bool(architectures) and architectures[0].endswith("ForImageClassification")
        model_class: Any = AutoModelForImageClassification if is_classifier else AutoModel
        model, loading_info = model_class.from_pretrained(name_or_path, output_loading_info=True)
    except ConversionError:
        raise
    except LOADING_ERRORS as error:
        raise ConversionError(f"{name_or_path!r} cannot be loaded: {flatten_message(error)}") from error
    # The pooler is not converted.
    if missing := sorted(name for name in loading_info["missing_keys"] if "pooler." not in name):
        raise ConversionError(
            f"{name_or_path!r} has not all weights of a {type(model).__name__}: {missing[0]} misses."
        )
    return model


def load_processor(name_or_path: str, config: AiTConfig) -> ViTImageProcessorPil:
    """
    Load the image processor of a checkpoint, or make one if it has none.

    Raises:
        ConversionError: if there is one that cannot be read.
    """
    try:
        if cached_file(name_or_path, IMAGE_PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False) is None:
            height, width = config.image_shape
            return ViTImageProcessorPil(size={"height": height, "width": width})
        processor = ViTImageProcessorPil.from_pretrained(name_or_path)
        check_statistics(image_mean=list(processor.image_mean), image_std=list(processor.image_std))
    except LOADING_ERRORS as error:
        raise ConversionError(
            f"{IMAGE_PROCESSOR_NAME} of {name_or_path!r} cannot be used: {flatten_message(error)} Restore the "
            "file, or remove it to get a new one with transformers' defaults."
        ) from error
    return processor


def main(argv: list[str] | None = None) -> None:
    usage = "python -m conversion.convert_vit --model NAME_OR_FOLDER --output_dir FOLDER [--flag value ...]"
    parser = ArgumentParser((), description=__doc__, usage=usage)
    parser.add_argument("--model", required=True, help="Hub id or folder of a ViT, DeiT or DINOv2")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for the converted model")
    defaults = AiTConfig()
    for field in ("num_memory_slots", "memory_slot_size", "num_memory_heads", "bottleneck_size"):
        default = getattr(defaults, field)
        parser.add_argument(f"--{field}", type=int, default=default, help="of the workspace")
    parser.add_argument("--overwrite", action="store_true", help="replace a model in the output folder")
    parser.add_argument("--push_to_hub", metavar="REPO", help="repository to push the result to")
    options = parser.parse_plain(sys.argv[1:] if argv is None else argv)

    refuse_existing_model(options.output_dir, options.overwrite)
    model = convert_model(
        load_source(options.model),
        num_memory_slots=options.num_memory_slots,
        memory_slot_size=options.memory_slot_size,
        num_memory_heads=options.num_memory_heads,
        bottleneck_size=options.bottleneck_size,
    )
    processor = load_processor(options.model, model.config)
    fit_positions(model, processor)
    command = join_call("conversion.convert_vit", sys.argv[1:] if argv is None else argv)
    source = Path(options.model).name
    save_converted(model, processor, options.output_dir, source, command, options.push_to_hub, options.model)
    print(f"Saved {type(model).__name__} in {options.output_dir}.")


if __name__ == "__main__":
    run_script(main)
