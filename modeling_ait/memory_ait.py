"""The memory of AiT: the module that holds it, and what every model does with it, from a copy to a file of its own."""

import json
import os
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .configuration_ait import AiTConfig
from .distributed_ait import add_up
from .inputs_ait import check_tensor
from .saving_ait import stage_files


# In the metadata of a file: what the weights beside which the memories were written make of fixed noise.
SKETCH_KEY = "workspace_sketch"
SKETCH_SIZE = 16
# Share of the sketch's length. Rounding to bfloat16 or int8 changes it by about 0.01, another training by more than 1.
SKETCH_TOLERANCE = 0.25


def make_initial_memory(shape: torch.Size, layer_index: int) -> torch.Tensor:
    """Draw a layer's first memory, N(0, 1) of shape (M, D), from a random stream of its own: always the same one."""
    generator = torch.Generator().manual_seed(layer_index)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


# Dynamo, by which the exporter tries again, takes the answer of torch's own function for False.
@torch.compiler.assume_constant_result
def is_onnx_exporting() -> bool:
    """Whether `torch.onnx.export` runs, in whichever way it traces the model."""
    return torch.onnx.is_in_onnx_export()


def pack_memory(memory: torch.Tensor) -> torch.Tensor:
    """Read a float32 memory as integers of the same bits, without gradient, so that mixed precision casts none."""
    return memory.detach().view(torch.int32)


def unpack_memory(memory: torch.Tensor) -> torch.Tensor:
    """Read what `pack_memory` returns as the float32 memory that it was; any other memory is returned as it is."""
    return memory.view(torch.float32) if memory.dtype == torch.int32 else memory


class AiTMemory(nn.Module):
    """
    The memories of all layers, one float32 buffer each: reading, the one place where they change, and the reset.

    A module of its own, so that adapters, device maps and offloading can treat them as one thing. Called without
    arguments it reads: it returns a float32 copy of each layer's memory, (num_memory_slots, memory_slot_size).
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.num_layers = config.num_hidden_layers if config.num_memory_slots > 0 else 0
        for layer_index in range(self.num_layers):
            # Always float32, whatever the default dtype that a loader has set.
            memory = torch.empty(config.num_memory_slots, config.memory_slot_size, dtype=torch.float32)
            self.register_buffer(f"layer_{layer_index}", memory)
        # Here as well as in `_init_weights`, which some loaders skip.
        self.reset()

    @property
    def buffers_by_layer(self) -> tuple[torch.Tensor, ...]:
        """The buffers themselves, in the order of the layers; empty without a workspace."""
        return tuple(self.get_buffer(f"layer_{layer_index}") for layer_index in range(self.num_layers))

    def forward(self) -> list[torch.Tensor]:
        # Mixed-precision wrappers may have cast a buffer behind our back. Autograd keeps what the layers read, and the
        # commit overwrites the buffer before the backward pass. A plain clone would do, but torch.compile's inductor
        # takes it for a no-op, keeps the buffer itself and computes wrong gradients (pytorch issue 198131); what it
        # neither drops nor recomputes is padding, cut off again.
        return [nn.functional.pad(memory.float(), (0, 0, 0, 1))[:-1] for memory in self.buffers_by_layer]

    @torch.no_grad()
    def commit(self, new_memories: list[torch.Tensor], synchronize: bool = False) -> torch.Tensor:
        """
        Replace the memories in place, all of them or, if any value is not finite, none.

        With `synchronize`, a value that is not finite on one process keeps the memories of all: it may have come from
        weights behind the exchange, which the others' memories have not met.

        Returns:
            Whether they were replaced, a bool tensor of shape (). Only a look at it waits for the device.

        Raises:
            `ValueError`: while `torch.onnx.export` runs, whose graphs have no state.
        """
        if torch.compiler.is_exporting() and is_onnx_exporting():
            raise ValueError(
                "An ONNX graph has no state, so the memories' write would be lost in it: export the model after "
                "`model.eval()` or with `update_memory=False`, or pass the memories in and out of the graph, as "
                "`python -m examples.export --format onnx --update_memory True` does."
            )
        new_memories = [new.to(old.device) for new, old in zip(new_memories, self.buffers_by_layer)]
        is_finite = torch.stack([memory.isfinite().all() for memory in new_memories]).all()
        if synchronize:
            is_finite = add_up((~is_finite).float()) == 0
        for old, new in zip(self.buffers_by_layer, new_memories):
            old.copy_(torch.where(is_finite, new, old))
        return is_finite

    @torch.no_grad()
    def reset(self) -> None:
        """Set every memory back to its initial value, in place."""
        for layer_index, memory in enumerate(self.buffers_by_layer):
            memory.copy_(make_initial_memory(memory.shape, layer_index))

    def _apply(self, fn, recurse=True):
        # `.half()` and `.to(torch.bfloat16)` cast every buffer, and a memory that was rounded once stays rounded.
        before = self.buffers_by_layer
        super()._apply(fn, recurse)
        for layer_index, memory in enumerate(before):
            after = self.buffers_by_layer[layer_index]
            if after.dtype != torch.float32:
                self.register_buffer(f"layer_{layer_index}", memory.to(after.device))
        return self


def check_memories(memories: list[Any], buffers: tuple[torch.Tensor, ...]) -> None:
    """Raise a `ValueError` unless there is one float32 memory of the right shape, all finite, for each layer."""
    if len(memories) != len(buffers):
        raise ValueError(f"There must be one memory for each of the {len(buffers)} layers, but got {len(memories)}.")
    for layer_index, (memory, buffer) in enumerate(zip(memories, buffers)):
        name = f"memories[{layer_index}]"
        check_tensor(name, memory)
        if memory.shape != buffer.shape or memory.dtype != torch.float32:
            raise ValueError(
                f"`{name}` must be float32 of shape {tuple(buffer.shape)}, but got {memory.dtype} of shape "
                f"{tuple(memory.shape)}."
            )
        if memory.is_meta or not memory.isfinite().all():
            raise ValueError(f"`{name}` must be finite, but {'has no values' if memory.is_meta else 'is not'}.")


class AiTMemoryMixin:
    """What every AiT model does with its memories beyond the forward; models share it by inheriting from it."""

    @property
    def _ait(self) -> Any:
        return self.base_model  # type: ignore[attr-defined]  # of `PreTrainedModel`

    def get_memories(self) -> tuple[torch.Tensor, ...]:
        """
        Copy the memory of each layer, float32 `(num_memory_slots, memory_slot_size)` each; empty without a workspace.

        No later write changes the copies, and no change of a copy the model. With an adapter that carries memories of
        its own they are the active adapter's, here as in all methods below.
        """
        return tuple(memory.detach().clone() for memory in self._ait.memories)

    def set_memories(self, memories: Iterable[torch.Tensor]) -> None:
        """
        Replace the memories of all layers, for instance by what `get_memories` gave before.

        Args:
            memories (iterable of `torch.FloatTensor` of shape `(num_memory_slots, memory_slot_size)`):
                One for each layer, float32, on any device. They are copied.

        Raises:
            `ValueError`: if number, shape or dtype do not fit, or a value is not finite. Nothing is changed then.
        """
        memories = list(memories)
        check_memories(memories, self._ait.memories)
        if memories:
            self._ait.memory.commit(memories)

    def reset_memories(self) -> None:
        """Set the memory of every layer back to its initial value: the noise of a model that was never trained."""
        self._ait.memory.reset()

    def save_memories(self, file: str | os.PathLike) -> None:
        """
        Save the memories alone into a safetensors file, in one step: a save that fails leaves an older file as it was.

        So one set of weights serves many users, each with a memory of their own. The file has a tensor `layer_N` for
        each layer, and in its metadata what tells the weights that the memories belong to.

        Args:
            file (`str` or `os.PathLike`): The file; its folder is made if it is not there.

        Raises:
            `ValueError`: if the model has no memories, one of them is not finite, or there is a folder of this name.
        """
        memories = self.get_memories()
        if not memories:
            raise ValueError("This model has no memories to save: its `num_memory_slots` is 0.")
        check_memories(list(memories), memories)
        folder, name = os.path.split(os.path.abspath(file))
        if os.path.isdir(file):
            raise ValueError(f"{os.fspath(file)!r} is a folder: name a file.")
        tensors = {f"layer_{index}": memory.cpu() for index, memory in enumerate(memories)}
        with stage_files(folder) as staging:
            save_file(
                tensors, os.path.join(staging, name), {SKETCH_KEY: json.dumps(self._sketch_workspace().tolist())}
            )

    def load_memories(self, file: str | os.PathLike) -> None:
        """
        Replace the memories by those of a file of `save_memories`.

        A memory means something beside the weights that wrote it only. Of a file whose names and shapes fit, the
        weights are told by what the query projections of the writes and the retrievals make of fixed noise: weights
        that were rounded or trained a little further are taken, those of another training refused. Weights that differ
        elsewhere alone are not told apart. `set_memories` takes any memories that fit.

        Args:
            file (`str` or `os.PathLike`): The file.

        Raises:
            `FileNotFoundError`: if there is no such file.
            `ValueError`: if it is damaged or of another model. Nothing is changed then.
        """
        path = os.fspath(file)
        if os.path.isdir(path):
            raise ValueError(f"{path!r} is a folder: name a file.")
        expected = {f"layer_{index}": ("F32", list(memory.shape)) for index, memory in enumerate(self._ait.memories)}
        try:
            with safe_open(path, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
                found = {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}
                metadata = opened.metadata() or {}
                # Before a tensor is read, which could be of any size.
                if found != expected:
                    raise ValueError(f"it holds {describe(found)}, but the model {describe(expected)}")
                memories = [opened.get_tensor(name) for name in expected]
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {path!r}: `save_memories` writes one.") from None
        except SafetensorError as error:
            raise ValueError(f"{path!r} is no whole safetensors file: {' '.join(str(error).split())}.") from None
        except ValueError as error:
            raise ValueError(f"{path!r} is of another model: {error}.") from None
        if not self._is_own_sketch(metadata.get(SKETCH_KEY)):
            raise ValueError(
                f"{path!r} is of another model: its memories were written beside other weights. `set_memories` takes "
                "them all the same."
            )
        self.set_memories(memories)

    def enable_adapters(self) -> None:
        """Enable the adapters that are attached to the model, their classifiers and memories among them."""
        super().enable_adapters()  # type: ignore[misc]  # of `PreTrainedModel`
        # What `disable_adapters` of transformers 5.23 turns off besides, its `enable_adapters` leaves off.
        for module in self.modules():  # type: ignore[attr-defined]
            if hasattr(module, "modules_to_save"):
                module.enable_adapters(True)

    @torch.no_grad()
    def _sketch_workspace(self) -> torch.Tensor:
        """What all layers' queries and patterns are for the same noise: a few numbers that tell the weights."""
        sketch = []
        for layer_index, memory in enumerate(self._ait.memories):
            workspace = self._ait.layers[layer_index].workspace
            noise = make_initial_memory(memory.shape, layer_index)[:1].to(self._ait.dtype)
            # By a call, since a weight that is quantized, adapted or offloaded cannot be read.
            for projection in (workspace.write.query_proj, workspace.retrieve.pattern_proj):
                device = next(projection.parameters()).device
                projected = projection(noise if device.type == "meta" else noise.to(device))
                sketch.append(projected[0, :SKETCH_SIZE].float().cpu())
        return torch.cat(sketch)

    def _is_own_sketch(self, text: str | None) -> bool:
        """Whether the sketch of a file is that of these weights."""
        own = self._sketch_workspace()
        try:
            given = torch.tensor(json.loads(text or ""), dtype=torch.float32)
        except (TypeError, ValueError, RecursionError):
            return False
        return given.shape == own.shape and bool((given - own).norm() <= SKETCH_TOLERANCE * own.norm())


def describe(tensors: dict[str, tuple[str, list[int]]]) -> str:
    """Number, dtype and shape of the tensors of a file in a few words."""
    kinds = sorted({f"{dtype} {tuple(shape)}" for dtype, shape in tensors.values()})
    shown = ", ".join(kinds[:3]) + (", ..." if len(kinds) > 3 else "")
    return f"{len(tensors)} tensors ({', '.join(sorted(tensors)[:2])}...) of {shown}" if tensors else "no tensors"
