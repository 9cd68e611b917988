"""The model of the official AiT code, from a checkout that the user has: nothing of it is copied."""

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from examples.errors import InputError, flatten_message
from modeling_ait import AiTConfig


HEAD_DIM = 64
# What the class of the official model sets, by which it is found, and what that of the questions sets besides.
ATTRIBUTES = {"to_patch_embedding", "transformer", "mlp_head"}
QUESTION_ATTRIBUTE = "question_to_embedding"
MEMORY_ENDING = "memoryupdate.memory"
CHECKOUT = "`--official` takes a checkout of github.com/yuweisunn/associative-transformer"


def list_sizes(config: AiTConfig) -> dict[str, Any]:
    """The sizes of an AiT by the names that parameters of the official classes may have."""
    sizes = {
        ("image_size", "img_size"): config.image_size,
        ("patch_size",): config.patch_size,
        ("num_classes", "num_labels"): config.num_labels,
        ("channels", "num_channels", "in_channels"): config.num_channels,
        ("hidden_size", "dim", "embed_dim"): config.hidden_size,
        ("intermediate_size", "mlp_dim"): config.intermediate_size,
        ("num_hidden_layers", "depth", "num_layers"): config.num_hidden_layers,
        ("num_attention_heads", "heads", "num_heads"): config.num_attention_heads,
        ("attention_head_dim", "dim_head", "head_dim"): config.hidden_size // config.num_attention_heads,
        ("pattern_size", "num_memory_slots"): config.num_memory_slots,
        ("memory_dim", "memory_slot_size"): config.memory_slot_size,
        ("memory_head", "memory_heads", "num_memory_heads"): config.num_memory_heads,
        ("bottleneck", "bottleneck_size"): config.bottleneck_size,
        ("beta", "hopfield_beta"): config.hopfield_beta,
        ("dataset",): "cifar10",
        ("batch", "batch_size"): 1,
    }
    return {name: value for names, value in sizes.items() for name in names}


def list_set_attributes(node: ast.ClassDef) -> set[str]:
    """Names of the attributes that the methods of a class set on `self`."""
    return {
        child.attr
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute)
        and isinstance(child.ctx, ast.Store)
        and isinstance(child.value, ast.Name)
        and child.value.id == "self"
    }


def iterate_model_classes(checkout: Path) -> Iterator[tuple[Path, str]]:
    """Files and names of the classes that look like the official image classifier; nothing is executed for it."""
    for path in sorted(checkout.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found = list_set_attributes(node)
                if found >= ATTRIBUTES and QUESTION_ATTRIBUTE not in found:
                    yield path, node.name


def find_model_class(official: str) -> tuple[Path, str]:
    """
    Find the file and the name of the official model's class.

    Raises:
        InputError: if there is no such folder, or not one such class in it.
    """
    checkout = Path(official).expanduser()
    if not checkout.is_dir():
        raise InputError(f"There is no folder {official!r}. {CHECKOUT}.")
    found = list(iterate_model_classes(checkout))
    if len(found) != 1:
        listed = ", ".join(f"{name} in {path.relative_to(checkout)}" for path, name in found) or "none"
        raise InputError(
            f"{official!r} is not that code: its model is a class that sets {', '.join(sorted(ATTRIBUTES))}, and "
            f"here is {listed}. {CHECKOUT}, or the folder in it that holds one such class."
        )
    return found[0]


def load_class(path: Path, name: str) -> type[nn.Module]:
    """
    Import a class from a file, which may import its neighbours.

    Raises:
        InputError: if it cannot be imported.
    """
    module_name = f"official_ait_{path.stem}"
    spec = spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, path
    module = module_from_spec(spec)
    sys.modules[module_name] = module
    folders = [str(path.parent), str(path.parent.parent)]
    sys.path[:0] = folders
    before = set(sys.modules)
    try:
        spec.loader.exec_module(module)
        return getattr(module, name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{path.name} of the official code cannot be imported: {type(error).__name__}: {flatten_message(error)}. "
            "Install what it needs, or measure without `--official`."
        ) from error
    finally:
        for folder in folders:
            sys.path.remove(folder)
        # Its neighbours have names such as `utils`: nothing else shall find them under these.
        for other in set(sys.modules) - before:
            if str(getattr(sys.modules[other], "__file__", None)).startswith(tuple(folders)):
                del sys.modules[other]


def choose_arguments(model_class: type[nn.Module], config: AiTConfig) -> dict[str, Any]:
    """
    The arguments that the constructor takes, by their names; those that have defaults and no counterpart keep them.

    Raises:
        InputError: for one that is required and unknown.
    """
    sizes = list_sizes(config)
    arguments = {}
    for name, parameter in inspect.signature(model_class).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in sizes:
            arguments[name] = sizes[name]
        elif "dropout" in name or name.endswith("drop"):
            arguments[name] = 0.0
        elif parameter.default is parameter.empty:
            raise InputError(
                f"{model_class.__name__} of the official code requires {name!r}, which is not known here. Known: "
                f"{', '.join(sorted(sizes))}."
            )
    return arguments


class OfficialModel(nn.Module):
    """The official model with the interface of the others: `loss` is its cross-entropy plus its balance loss."""

    def __init__(self, model: nn.Module, config: AiTConfig):
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        outputs = self.model(pixel_values)
        logits, *rest = outputs if isinstance(outputs, tuple | list) else (outputs,)
        if logits.shape != (len(pixel_values), self.config.num_labels):
            raise InputError(f"The official model returned {tuple(logits.shape)} where logits should be.")
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
            # Its coefficient is in it already.
            loss = loss + sum(value for value in rest if torch.is_tensor(value) and value.numel() == 1)
        return SimpleNamespace(loss=loss, logits=logits)


def build_official(official: str, config: AiTConfig) -> Any:
    """
    Build the official model in the shape of an AiT.

    Args:
        official: Checkout of the official code. Its Python is executed.
        config: Configuration of the AiT.

    Raises:
        InputError: if the path is missing, holds other code, or its class cannot be built in this shape.
    """
    path, name = find_model_class(official)
    model_class = load_class(path, name)
    arguments = choose_arguments(model_class, config)
    try:
        model = model_class(**arguments)
    except Exception as error:
        raise InputError(
            f"{name} of the official code cannot be built with {arguments}: {flatten_message(error)}"
        ) from error
    if not any(key.endswith(MEMORY_ENDING) for key in model.state_dict()):
        raise InputError(
            f"{name} in {path.name} is not the official model: it has no memory. {CHECKOUT}, or the folder in it that "
            "holds the model."
        )
    return OfficialModel(model, config)
