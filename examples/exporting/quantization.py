"""AiT with weights of 8 or 4 bits, by torchao, as a checkpoint that transformers opens."""

from typing import Any

import torch
from torch import nn
from transformers import TorchAoConfig

from examples.errors import InputError
from modeling_ait import AiTPreTrainedModel


def find_indivisible_layers(model: AiTPreTrainedModel, group_size: int) -> tuple[list[str], int]:
    """Names of the linear layers whose input is no multiple of the group size, and the number of all."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [name for name, module in linears.items() if module.in_features % group_size != 0], len(linears)


def quantize_checkpoint(checkpoint: str, model: AiTPreTrainedModel, num_bits: int, group_size: int) -> Any:
    """
    Load a checkpoint with the weights of its linear layers quantized; memories, norms and positions stay float32.

    Args:
        checkpoint: Folder or Hub id.
        model: The checkpoint, loaded without quantization.
        num_bits: 8, with a scale for each row of a weight, or 4, with one for each group in a row.
        group_size: Weights in a group.

    Raises:
        InputError: if no layer's input is a multiple of the group size.
    """
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    if num_bits == 8:
        config = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        kept, num_layers = find_indivisible_layers(model, group_size)
        if len(kept) == num_layers:
            raise InputError(
                f"No layer has an input that is a multiple of {group_size} wide, so int4 has nothing to quantize: "
                "lower `--group_size`."
            )
        if kept:
            print(
                f"int4: {len(kept)} of {num_layers} linear layers stay float32, as their input is no multiple of "
                f"{group_size} wide (`--group_size`): {', '.join(sorted({name.split('.')[-1] for name in kept}))}."
            )
        # The packed forms of torchao 0.18 (`Int4WeightOnlyConfig`) need a GPU, an XPU or an NPU, those of
        # `IntxPackingFormat` an ARM processor or kernels that its wheel for others does not have.
        dtype = torch.int4  # type: ignore[attr-defined]  # the stubs of torch do not list it
        quantization: Any = IntxWeightOnlyConfig(weight_dtype=dtype, granularity=PerGroup(group_size))
        config = TorchAoConfig(quantization, modules_to_not_convert=kept or None)
    return type(model).from_pretrained(checkpoint, quantization_config=config, dtype=torch.float32).eval()


def count_stored_bits(model: AiTPreTrainedModel) -> float:
    """Bits that a value of a quantized weight takes as it is stored, with its share of scales and zero points."""
    weights = [weight for weight in model.parameters() if hasattr(weight, "__tensor_flatten__")]
    parts = [getattr(weight, name) for weight in weights for name in weight.__tensor_flatten__()[0]]
    num_bytes = sum(part.numel() * part.element_size() for part in parts if part is not None)
    return 8 * num_bytes / sum(weight.numel() for weight in weights)


def describe_storage(format_name: str, num_bits: float) -> str:
    """How the quantized weights are stored, in one line."""
    text = f"a quantized weight takes {num_bits:.1f} bits with its share of the scales"
    if format_name == "int4":
        text += (
            ": torchao packs two values into a byte for accelerators only, and one into a byte for a CPU, so int4 is "
            "less exact than int8 and no smaller"
        )
    return text


def find_weights_size(model: AiTPreTrainedModel) -> int:
    """Bytes of a model's weights and memories as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
