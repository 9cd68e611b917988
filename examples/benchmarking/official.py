"""The model of the official AiT code, from a checkout that the user has: nothing of it is copied."""

import ast
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from examples.errors import InputError, flatten_message
from modeling_ait import AiTConfig


# The transformer, and the script that puts the workspace into it and trains: of it the classes alone are executed.
TRANSFORMER, SCRIPT = "vit_hn.py", "ait.py"
CLASSES = {TRANSFORMER: ("ViT",), SCRIPT: ("MemoryUpdate", "ModularNN")}
CHECKOUT = "`--official` takes a checkout of github.com/yuweisunn/associative-transformer"
NEEDED = "It needs einops, and hflayers from github.com/ml-jku/hopfield-layers"


class OnDevice(ast.NodeTransformer):
    """Read `.cuda()` as `.to(device)`: the official code knows GPUs alone."""

    def __init__(self, device: str):
        self.device = device

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            node.func.attr, node.args = "to", [ast.Constant(self.device)]
        return node


def find_checkout(official: str) -> Path:
    """
    Find the files of the official model; nothing is executed for it.

    Raises:
        InputError: if there is no such folder, or other code in it.
    """
    checkout = Path(official).expanduser()
    if not checkout.is_dir():
        raise InputError(f"There is no folder {official!r}. {CHECKOUT}.")
    for name, classes in CLASSES.items():
        try:
            tree = ast.parse((checkout / name).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{official!r} is not that code: {flatten_message(error)}. {CHECKOUT}.") from error
        missing = set(classes) - {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        if missing:
            listed = ", ".join(sorted(missing))
            raise InputError(f"{official!r} is not that code: its {name} has no class {listed}. {CHECKOUT}.")
    return checkout


@contextmanager
def make_importable(folder: Path) -> Iterator[None]:
    """Let code import its neighbours in a folder. They have names such as `MHA`, by which nothing else finds them."""
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for other in set(sys.modules) - before:
            if str(getattr(sys.modules[other], "__file__", None)).startswith(str(folder)):
                del sys.modules[other]


def execute(path: Path, device: str, namespace: dict[str, Any], classes: tuple[str, ...] | None = None) -> None:
    """Execute a file in a namespace, or some of its classes alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if classes is not None:
        tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in classes]
    tree = ast.fix_missing_locations(OnDevice(device).visit(tree))
    exec(compile(tree, str(path), "exec"), namespace)


def assemble(checkout: Path, config: AiTConfig, device: str) -> nn.Module:
    """Build the official model as its script does: its transformer, with the workspace in place of each MLP."""
    num_patches = (int(config.image_size) // int(config.patch_size)) ** 2  # type: ignore[arg-type]
    settings = {
        "hidden_dim": config.hidden_size,
        "mlp_dim": config.intermediate_size,
        "dim": num_patches,
        "pattern_size": config.num_memory_slots,
        "memory_dim": config.memory_slot_size,
        "memory_head": config.num_memory_heads,
        # All tokens is more than there are.
        "bottleneck": sys.maxsize if config.bottleneck_size is None else config.bottleneck_size,
        "HN": True,
        "static": True,
    }
    transformer: dict[str, Any] = {"__name__": "official_vit_hn"}
    workspace: dict[str, Any] = {"__name__": "official_ait", "torch": torch, "nn": nn, **settings}
    with make_importable(checkout):
        execute(checkout / TRANSFORMER, device, transformer)
        workspace["MultiHeadAttention"] = importlib.import_module("MHA").MultiHeadAttention
        workspace["Hopfield"] = importlib.import_module("hflayers").Hopfield
        execute(checkout / SCRIPT, device, workspace, CLASSES[SCRIPT])
    model = transformer["ViT"](
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.num_labels,
        channels=config.num_channels,
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        # 64 by default: of the widths in the official settings that is the same.
        dim_head=config.hidden_size // config.num_attention_heads,
        mlp_dim=config.intermediate_size,
        sparse=True,
    )
    for index, (_, mlp) in enumerate(model.transformer.layers):
        mlp.fn = workspace["ModularNN"](float(config.hopfield_beta), index)
    return model


class OfficialModel(nn.Module):
    """The official model with the interface of the others: `loss` is its cross-entropy plus its balance loss."""

    def __init__(self, model: nn.Module, config: AiTConfig):
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        logits, balance_loss = self.model(pixel_values)
        # The coefficient of the balance loss is in it already.
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels) + balance_loss.mean()
        return SimpleNamespace(loss=loss, logits=logits)


def build_official(official: str, config: AiTConfig, device: str = "cpu") -> Any:
    """
    Build the official model in the shape of an AiT.

    Args:
        official: Checkout of the official code. Its Python is executed, without the part that trains.
        config: Configuration of the AiT.
        device: Where it will run.

    Raises:
        InputError: if the path is missing or holds other code, or it cannot be built in this shape.
    """
    checkout = find_checkout(official)
    try:
        model = assemble(checkout, config, device)
    except ImportError as error:
        raise InputError(f"The official code cannot be imported: {flatten_message(error)}. {NEEDED}.") from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"The official code cannot be built in this shape: {type(error).__name__}: {flatten_message(error)}"
        ) from error
    return OfficialModel(model, config)
