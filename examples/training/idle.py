"""Flags that would be taken without effect. A recipe may hold what is for some of its architectures alone."""

from typing import TYPE_CHECKING

from examples.baselines.catalog import ARCHITECTURES
from examples.errors import InputError


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from examples.training.arguments import ModelArguments


def refuse_idle_flags(given: set[str], recipe: set[str], model: "ModelArguments") -> None:
    """
    Raise an `InputError` for a flag that changes nothing.

    Args:
        given: Names of the flags of the command line.
        recipe: Those of the recipe.
        model: What is trained.
    """
    for name in ("do_train", "do_eval", "do_predict"):
        if name in given | recipe:
            raise InputError(f"`--{name}` has no effect: every run trains, and evaluates at its end. Leave it out.")
    architecture = model.architecture
    idle = {
        "baseline_config": architecture not in (model.baseline_config or {}),
        "match_parameters": not ARCHITECTURES[architecture].is_matched,
    }
    for name, is_idle in idle.items():
        if is_idle and {name, f"no_{name}"} & given:
            raise InputError(f"`--{name}` has no effect on the architecture {architecture!r}: leave it out.")


def refuse_idle_picture(model: "ModelArguments", training: "TrainingArguments", script: str) -> None:
    """Raise an `InputError` if a picture of the memories is asked for where none is drawn."""
    obstacle = None
    if script == "lora":
        obstacle = "of an adapter no picture is drawn"
    elif model.architecture != "ait":
        obstacle = f"the architecture {model.architecture!r} has no memories"
    elif (model.model_config or {}).get("num_memory_slots") == 0:  # type: ignore[union-attr]  # parsed before
        obstacle = "a model without memory slots has none to draw"
    elif training.fsdp or training.deepspeed:
        obstacle = "of a model that is spread over processes no picture is drawn"
    if obstacle is not None:
        raise InputError(f"`--visualize True` has no effect: {obstacle}. Leave it out.")
