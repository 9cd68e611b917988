"""Taking slots away at inference, to measure what they are good for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from examples.errors import InputError
from examples.visualization.measure import get_encoder, keep_as_it_is


def parse_slots(names: Iterable[str], model: PreTrainedModel) -> dict[int, list[int]]:
    """
    Read which slots of which layer are meant: `7` is slot 7 of every layer, `2:7` that of layer 2 alone, from 0 on.

    Returns:
        The slots of each layer that has any.

    Raises:
        InputError: for something else, a slot or layer that the model does not have, or all slots of a layer.
    """
    memories = get_encoder(model).memories
    num_layers, num_slots = len(memories), memories[0].shape[0]
    slots: dict[int, set[int]] = {}
    for name in names:
        layer, colon, slot = str(name).rpartition(":")
        if not (slot.isdecimal() and (layer.isdecimal() or not colon)):
            raise InputError(
                f"`--without_slots` takes slots such as 7, or layer and slot such as 2:7, but got {name!r}."
            )
        if int(slot) >= num_slots or (colon and int(layer) >= num_layers):
            raise InputError(
                f"There is no slot {name!r}: the model has layers 0 to {num_layers - 1} with slots 0 to "
                f"{num_slots - 1} each."
            )
        for layer_index in [int(layer)] if colon else range(num_layers):
            slots.setdefault(layer_index, set()).add(int(slot))
    if any(len(chosen) == num_slots for chosen in slots.values()):
        raise InputError(f"`--without_slots` leaves no slot of {num_slots}: leave one, or take all memory away.")
    return {layer_index: sorted(chosen) for layer_index, chosen in sorted(slots.items())}


@contextmanager
def without_slots(model: PreTrainedModel, slots: Mapping[int, Sequence[int]] | Sequence[int]) -> Iterator[None]:
    """
    Let no token retrieve some slots in here: the softmax is over the other slots alone.

    Nothing of the model changes. A removed slot has a retrieval attention of exactly 0, and energies are those of a
    memory without it. Writes still see all slots.

    Args:
        model: An AiT with any head.
        slots: The slots to remove, of each layer that loses any; a sequence removes the same from every layer.

    Raises:
        InputError: if the model has no memory.
        ValueError: for a slot that is not there, or all slots of a layer.
    """
    encoder = get_encoder(model)
    if not isinstance(slots, Mapping):
        slots = dict.fromkeys(range(len(encoder.layers)), slots)
    hooks = []
    for layer_index, removed in slots.items():
        num_slots = encoder.memories[layer_index].shape[0]
        kept = [slot for slot in range(num_slots) if slot not in set(removed)]
        if not kept or not set(removed) <= set(range(num_slots)):
            raise ValueError(f"`slots` must leave at least one of 0 to {num_slots - 1}, but got {list(removed)}.")
        if len(kept) < num_slots:
            hooks += remove_rows(encoder.layers[layer_index].workspace.retrieve, kept, num_slots)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def remove_rows(retrieve: torch.nn.Module, kept: list[int], num_slots: int) -> list[Any]:
    """Hook a retrieval so that it sees some rows of the memory alone, and returns 0 as the attention to the others."""

    def take_rows(module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        memory, *others = arguments
        return (memory[kept], *others)

    def fill_columns(module: Any, arguments: Any, output: tuple) -> tuple:
        retrieved, attention, energies = output
        full = attention.new_zeros(*attention.shape[:-1], num_slots)
        full[..., kept] = attention
        return retrieved, full, energies

    # Before the hooks that record what a retrieval returns.
    return [
        retrieve.register_forward_pre_hook(take_rows),
        retrieve.register_forward_hook(fill_columns, prepend=True),
    ]


@contextmanager
def without_memory(model: PreTrainedModel, layers: Iterable[int] | None = None) -> Iterator[None]:
    """
    Add nothing retrieved to any token in here: the model without what its memory gives. Nothing of it changes.

    Args:
        model: An AiT with any head.
        layers: The layers that lose their memory; by default all.

    Raises:
        InputError: if the model has no memory.
    """
    encoder = get_encoder(model)

    def retrieve_nothing(module: Any, arguments: Any, output: tuple) -> tuple:
        retrieved, attention, energies = output
        return torch.zeros_like(retrieved), attention, energies

    chosen = range(len(encoder.layers)) if layers is None else layers
    hooks = [encoder.layers[index].workspace.retrieve.register_forward_hook(retrieve_nothing) for index in chosen]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure_accuracy(model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]]) -> float:
    """Share of the labels of all batches that the model predicts, in percent; the model stays as it is."""
    num_right, num_labels = 0, 0
    with keep_as_it_is(model):
        for batch in batches:
            inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
            labels = inputs.pop("labels")
            num_right += int((model(**inputs).logits.argmax(dim=-1) == labels).sum())
            num_labels += labels.numel()
    if num_labels == 0:
        raise InputError("There is no labelled image to measure the accuracy with.")
    return 100 * num_right / num_labels


def measure_ablations(
    model: PreTrainedModel,
    batches: Sequence[dict[str, torch.Tensor]],
    chosen: Mapping[int, Sequence[int]] | None = None,
    on_slot: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """
    Accuracy without each slot of each layer, without the memory of a layer, and without any, in percent.

    Args:
        model: An AiT with a classifier; it stays as it is.
        batches: Batches with `labels`, gone through once for each slot of each layer.
        chosen: Slots of each layer to take away together as well.
        on_slot: Called after each slot.

    Returns:
        `accuracy` of the whole model; `without_chosen`, if any are; `without_memory`; `without_memory_of_layer`
        (num_layers,); `without_slot` (num_layers, num_slots).
    """

    def measure(context: Any) -> float:
        with context:
            return measure_accuracy(model, batches)

    def measure_slot(layer: int, slot: int, num_slots: int) -> float:
        # Without its only slot a layer has no memory.
        is_only = num_slots == 1
        accuracy = measure(without_memory(model, [layer]) if is_only else without_slots(model, {layer: [slot]}))
        on_slot()
        return accuracy

    memories = get_encoder(model).memories
    ablated = {"without_chosen": measure(without_slots(model, chosen))} if chosen else {}
    return {
        "accuracy": measure_accuracy(model, batches),
        **ablated,
        "without_memory": measure(without_memory(model)),
        "without_memory_of_layer": [measure(without_memory(model, [layer])) for layer in range(len(memories))],
        "without_slot": [
            [measure_slot(layer, slot, len(memory)) for slot in range(len(memory))]
            for layer, memory in enumerate(memories)
        ],
    }
