"""The ablations of AiT, by name."""

from typing import Any


# For models of four layers, counted from 0: the first layer with attention has an MLP before it.
ATTENTION_LAYERS = {"no_attention": [], "one_attention_layer": [1], "two_attention_layers": [1, 3]}


def label_ablation(name: str) -> str:
    """What the runs of an ablation are called in results."""
    return f"ait, {name.replace('_', ' ')}"


# Changes to the AiT of a recipe. "model_config" is merged into the recipe's; the rest are flags.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_balance_loss": {"model_config": {"balance_loss_coef": 0.0}},
    "no_bottleneck": {"model_config": {"bottleneck_size": None}},
    "no_memory": {"model_config": {"num_memory_slots": 0}},
    "detached_write": {"model_config": {"differentiable_write": False}},
    "fixed_memory": {"model_config": {"update_memory": False}},
    "reset_memory": {"reset_memory": True},
    "no_positions": {"model_config": {"position_embedding_type": "none"}},
    "differentiable_write": {"model_config": {"differentiable_write": True}},
    "learned_positions": {"model_config": {"position_embedding_type": "learned"}},
    "mean_pooling": {"model_config": {"pooling": "mean"}},
    "flatten_pooling": {"model_config": {"pooling": "flatten"}},
    "cls_pooling": {"model_config": {"pooling": "cls"}},
    **{f"beta_{beta:g}": {"model_config": {"hopfield_beta": beta}} for beta in (0.1, 0.5, 2.0, 5.0)},
    **{name: {"model_config": {"attention_layers": layers}} for name, layers in ATTENTION_LAYERS.items()},
    **{
        f"{name}_without_memory": {"model_config": {"attention_layers": layers, "num_memory_slots": 0}}
        for name, layers in ATTENTION_LAYERS.items()
    },
    **{f"slots_{slots}": {"model_config": {"num_memory_slots": slots}} for slots in (8, 16, 64, 128)},
}
