"""
Turn a checkpoint of the official AiT code into one that `from_pretrained` opens.

    python -m conversion.convert_official --checkpoint model.pth --output_dir ait-cifar10 --id2label labels.json

The result computes the same function: no positions, flattened pooling, detached write. What shapes tell is read from
them; the model with a question (Sort-of-CLEVR) is recognised and becomes an `AiTForRelationalReasoning`.
"""

import math
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import ViTImageProcessorPil

from conversion.common import (
    ConversionError,
    WeightMap,
    check_statistics,
    convert_weights,
    expand_layers,
    keep,
    load_converted,
    read_labels,
    refuse_existing_model,
    save_converted,
)
from examples.errors import run_script
from examples.parsing import ArgumentParser
from examples.sharing import join_call
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


# Of the official preprocessing for CIFAR-10. The relational data are only scaled to [0, 1].
CIFAR_MEAN, CIFAR_STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
# The official self-attention has heads of this width whatever the hidden size.
HEAD_DIM = 64
# Never used by the official code.
IGNORED = ("pos_embedding", "cls_token", "to_patch_embedding_cnn.0.weight", "to_patch_embedding_cnn.0.bias")


def split_in_three(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    return tensor.chunk(3)


def make_weight_map(num_memory_heads: int, has_question: bool) -> WeightMap:
    """The table from official to our names; modules stand for their weight and bias, `{layer}` for every layer."""

    def put_heads_first(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
        # The official code concatenates the write heads width-major: column d * S + s belongs to head s.
        return (tensor.unflatten(1, (-1, num_memory_heads)).transpose(1, 2).flatten(1).contiguous(),)

    ours, theirs = "ait.layers.{layer}.", "transformer.layers.{layer}."
    write, their_write = ours + "workspace.write.", theirs + "1.fn.memoryupdate.mha."
    modules = {
        "to_patch_embedding.1": "ait.embeddings.patch_embeddings.layernorm_before",
        "to_patch_embedding.2": "ait.embeddings.patch_embeddings.projection",
        "to_patch_embedding.3": "ait.embeddings.patch_embeddings.layernorm_after",
        theirs + "0.norm": ours + "layernorm_before",
        theirs + "0.fn.to_out.0": ours + "attention.o_proj",
        theirs + "1.norm": ours + "layernorm_after",
        theirs + "1.fn.fc1": ours + "mlp.fc1",
        theirs + "1.fn.fc2": ours + "mlp.fc2",
        theirs + "1.fn.norm": ours + "layernorm_output",
        theirs + "1.fn.fc3": ours + "workspace.retrieve.pattern_proj",
        their_write + "layer_norm": write + "layernorm",
        "mlp_head.0": "ait.layernorm",
        "mlp_head.1": "classifier",
    }
    if has_question:
        modules |= {
            "question_to_embedding.0": "ait.embeddings.question_embeddings.layernorm_before",
            "question_to_embedding.1": "ait.embeddings.question_embeddings.projection",
            "question_to_embedding.2": "ait.embeddings.question_embeddings.layernorm_after",
        }
    return {
        **{
            f"{source}.{kind}": ((f"{target}.{kind}",), keep)
            for source, target in modules.items()
            for kind in ("weight", "bias")
        },
        theirs + "0.fn.to_qkv.weight": (
            tuple(f"{ours}attention.{name}_proj.weight" for name in ("q", "k", "v")),
            split_in_three,
        ),
        their_write + "w_qs.weight": ((write + "query_proj.weight",), keep),
        their_write + "w_ks.weight": ((write + "key_proj.weight",), keep),
        their_write + "w_vs.weight": ((write + "value_proj.weight",), keep),
        their_write + "fc.weight": ((write + "output_proj.weight",), put_heads_first),
        theirs + "1.fn.memoryupdate.memory": (("ait.memory.layer_{layer}",), keep),
    }


def read_checkpoint(path: str) -> dict[str, torch.Tensor]:
    """
    Read a state dict without executing anything in the file, and drop a DataParallel prefix.

    Raises:
        ConversionError: if the file is missing, truncated, needs arbitrary code or holds no state dict.
    """
    if not Path(path).is_file():
        raise ConversionError(f"There is no file {path!r}.")
    try:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path!r} is no plain state dict: reading it would execute code that it brings, which is refused. "
            f"Save `model.state_dict()` with torch.save instead. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"{path!r} cannot be read, it may be truncated: {reason}") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise ConversionError(f"{path!r} holds no state dict (names and tensors), but a {type(weights).__name__}.")
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def get_square_side(number: int, what: str) -> int:
    side = math.isqrt(number)
    if side * side != number:
        raise ConversionError(
            f"{what} is {number}, which is no square: the official model has square images and patches."
        )
    return side


def read_config(weights: dict[str, torch.Tensor], bottleneck_size: int, hopfield_beta: float) -> AiTConfig:
    """
    Read all sizes from the shapes of the weights.

    Raises:
        ConversionError: if the weights are no AiT's, or contradict each other.
    """
    num_layers = sum(name.endswith("1.fn.memoryupdate.memory") for name in weights)
    first = "transformer.layers.0."
    try:
        hidden_size, patch_width = weights["to_patch_embedding.2.weight"].shape
        num_slots, slot_size = weights[first + "1.fn.memoryupdate.memory"].shape
        inner_size = weights[first + "1.fn.memoryupdate.mha.w_qs.weight"].shape[0]
        attention_size = weights[first + "0.fn.to_qkv.weight"].shape[0] // 3
        intermediate_size = weights[first + "1.fn.fc1.weight"].shape[0]
        num_labels, head_size = weights["mlp_head.1.weight"].shape
        # Named beta there, it is the share of the old memory, not the inverse temperature.
        update_rate = round(1 - float(weights[first + "1.fn.memoryupdate.beta"]), 6)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ConversionError(
            f"This is no state dict of the official AiT: {error}. It has {len(weights)} tensors, the first being "
            f"{', '.join(list(weights)[:5])}."
        ) from error
    question = weights.get("question_to_embedding.1.weight")
    if attention_size != hidden_size or hidden_size % HEAD_DIM:
        raise ConversionError(
            f"The self-attention is {attention_size} wide and the tokens {hidden_size}: AiT needs the same width for "
            f"both, a multiple of {HEAD_DIM}."
        )
    if inner_size % slot_size or head_size % hidden_size:
        raise ConversionError(
            f"The write is {inner_size} wide for slots of {slot_size}, the head {head_size} for tokens of "
            f"{hidden_size}: each must be a multiple."
        )
    patch_size = get_square_side(patch_width // 3, "The number of pixels of a patch")
    side = get_square_side(head_size // hidden_size - (question is not None), "The number of patches")
    return AiTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // HEAD_DIM,
        intermediate_size=intermediate_size,
        image_size=side * patch_size,
        patch_size=patch_size,
        num_memory_slots=num_slots,
        memory_slot_size=slot_size,
        num_memory_heads=inner_size // slot_size,
        bottleneck_size=bottleneck_size,
        memory_update_rate=update_rate,
        hopfield_beta=hopfield_beta,
        differentiable_write=False,
        position_embedding_type="none",
        pooling="flatten",
        question_size=None if question is None else question.shape[1],
        id2label={index: f"LABEL_{index}" for index in range(num_labels)},
        label2id={f"LABEL_{index}": index for index in range(num_labels)},
    )


def convert_checkpoint(
    checkpoint: str, bottleneck_size: int = 512, hopfield_beta: float = 1.0, id2label: str | None = None
) -> AiTForImageClassification | AiTForRelationalReasoning:
    """
    Build the AiT that computes what an official checkpoint computes.

    Args:
        checkpoint (`str`): Path of the `.pth` file.
        bottleneck_size (`int`, *optional*, defaults to 512): k, which no shape tells.
        hopfield_beta (`float`, *optional*, defaults to 1.0): Inverse temperature, which no shape tells.
        id2label (`str`, *optional*): JSON file with the names of the classes.

    Raises:
        ConversionError: for a file or option that cannot be converted.
    """
    weights = read_checkpoint(checkpoint)
    try:
        config = read_config(weights, bottleneck_size, hopfield_beta)
    except ConversionError:
        raise
    except ValueError as error:
        raise ConversionError(str(error)) from error
    names = read_labels(id2label, len(config.id2label or {}))
    if names is not None:
        config.id2label, config.label2id = names, {name: index for index, name in names.items()}
    with torch.device("meta"):
        model = (AiTForImageClassification if config.question_size is None else AiTForRelationalReasoning)(config)
    layers = range(config.num_hidden_layers)
    converted = convert_weights(
        weights,
        expand_layers(make_weight_map(config.num_memory_heads, config.question_size is not None), len(layers)),
        [*IGNORED, *(f"transformer.layers.{layer}.1.fn.memoryupdate.beta" for layer in layers)],
        model.state_dict(),
    )
    load_converted(model, converted)
    return model


def main(argv: list[str] | None = None) -> None:
    usage = "python -m conversion.convert_official --checkpoint FILE.pth --output_dir FOLDER [--flag value ...]"
    parser = ArgumentParser((), description=__doc__, usage=usage)
    parser.add_argument("--checkpoint", required=True, help="state dict of the official code, a .pth file")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for the converted model")
    parser.add_argument("--bottleneck_size", type=int, default=512, help="tokens kept per slot and head")
    parser.add_argument("--hopfield_beta", type=float, default=1.0, help="inverse temperature")
    parser.add_argument("--image_mean", type=float, nargs=3, help="of channels in [0, 1] (default: CIFAR-10's, or 0)")
    parser.add_argument("--image_std", type=float, nargs=3, help="of channels in [0, 1] (default: CIFAR-10's, or 1)")
    parser.add_argument("--id2label", help="JSON file with class names, a mapping or a list")
    parser.add_argument("--overwrite", action="store_true", help="replace a model in the output folder")
    parser.add_argument("--push_to_hub", metavar="REPO", help="repository to push the result to")
    options = parser.parse_plain(sys.argv[1:] if argv is None else argv)

    check_statistics(image_mean=options.image_mean, image_std=options.image_std)
    refuse_existing_model(options.output_dir, options.overwrite)
    model = convert_checkpoint(options.checkpoint, options.bottleneck_size, options.hopfield_beta, options.id2label)
    is_image_model = model.config.question_size is None
    height, width = model.config.image_shape
    processor = ViTImageProcessorPil(
        size={"height": height, "width": width},
        image_mean=options.image_mean or (CIFAR_MEAN if is_image_model else [0.0] * 3),
        image_std=options.image_std or (CIFAR_STD if is_image_model else [1.0] * 3),
        do_convert_rgb=True,
    )
    command = join_call("conversion.convert_official", sys.argv[1:] if argv is None else argv)
    save_converted(
        model, processor, options.output_dir, "a checkpoint of the official AiT code", command, options.push_to_hub
    )
    print(f"Saved {type(model).__name__} in {options.output_dir}.")


if __name__ == "__main__":
    run_script(main)
