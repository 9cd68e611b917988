"""What the slots of a memory are used for: how much, by which patches, how alike they are, how they move."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from examples.errors import LOADING_ERRORS, InputError, flatten_message
from examples.visualization.measure import get_encoder, keep_as_it_is, locate_tokens, select_inputs


MEMORY_NAME = re.compile(r"(?:.*\.)?memory\.layer_(\d+)")


class SlotUse:
    """
    Counts, over any number of batches, what retrieves which slot.

    `tokens` (num_layers, num_slots) has the number of tokens that retrieve a slot more than any other, `attention` the
    sum of the retrieval attention that it gets; either sums to the number of tokens of a layer. A slot is dead if it
    is no token's first choice.
    """

    def __init__(self, num_layers: int, num_slots: int):
        self.tokens = torch.zeros(num_layers, num_slots, dtype=torch.int64)
        self.attention = torch.zeros(num_layers, num_slots, dtype=torch.float64)
        self.token_entropy_sum = torch.zeros(num_layers, dtype=torch.float64)

    @torch.no_grad()
    def add(self, layer_index: int, attention: torch.Tensor) -> None:
        """Count the retrieval attention of a batch, (..., num_slots), in a layer."""
        attention = attention.flatten(0, -2).float()  # (num_tokens, num_slots)
        self.tokens[layer_index] += attention.argmax(dim=-1).bincount(minlength=attention.shape[-1]).cpu()
        self.attention[layer_index] += attention.sum(dim=0).cpu()
        self.token_entropy_sum[layer_index] += compute_entropy(attention).sum().cpu()

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy of the slots' shares of all retrieval attention, in bits, (num_layers,); at most log2(num_slots)."""
        return compute_entropy(self.attention / self.attention.sum(dim=-1, keepdim=True))

    @property
    def token_entropy(self) -> torch.Tensor:
        """Mean entropy of one token's retrieval attention, in bits, (num_layers,): 0 if it retrieves a single slot."""
        return self.token_entropy_sum / self.tokens.sum(dim=-1)

    @property
    def is_dead(self) -> torch.Tensor:
        """Which slots are no token's first choice, (num_layers, num_slots)."""
        return self.tokens == 0

    @contextmanager
    def watch(self, model: PreTrainedModel) -> Iterator["SlotUse"]:
        """Count whatever an AiT retrieves in here, by hooks that change nothing."""
        layers = get_encoder(model).layers
        hooks = []
        for layer_index, layer in enumerate(layers):

            def count(module: Any, arguments: Any, output: Any, layer_index: int = layer_index) -> None:
                self.add(layer_index, output[1])

            hooks.append(layer.workspace.retrieve.register_forward_hook(count))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def compute_entropy(shares: torch.Tensor) -> torch.Tensor:
    """Entropy of distributions over the last dimension, in bits, (..., M) -> (...)."""
    return torch.special.entr(shares).sum(dim=-1) / math.log(2)


def start_slot_use(model: PreTrainedModel) -> SlotUse:
    """A count of nothing yet, for a model."""
    memories = get_encoder(model).memories
    return SlotUse(len(memories), memories[0].shape[0])


class StrongestPatches:
    """
    The patches of a set that retrieve each slot most strongly, the strongest first.

    `attention`, `images` and `patches` are (num_layers, num_slots, num_found): how strongly, and which patch (counted
    row by row) of which image of the set. At most `num_patches` are found for a slot.
    """

    def __init__(self, num_layers: int, num_slots: int, num_patches: int):
        self.num_patches = num_patches
        self.attention = torch.zeros(num_layers, num_slots, 0)
        self.images = torch.zeros(num_layers, num_slots, 0, dtype=torch.int64)
        self.patches = torch.zeros(num_layers, num_slots, 0, dtype=torch.int64)

    def add(self, retrieval: torch.Tensor, first_image: int) -> None:
        """Take in the retrieval attention of patches, (num_layers, batch_size, patches of an image, num_slots)."""
        patches_per_image = retrieval.shape[2]
        new = retrieval.flatten(1, 2).transpose(1, 2)  # (num_layers, num_slots, batch_size * patches_per_image)
        places = torch.arange(new.shape[-1]).expand(new.shape)
        attention = torch.cat([self.attention, new], dim=-1)
        images = torch.cat([self.images, first_image + places // patches_per_image], dim=-1)
        patches = torch.cat([self.patches, places % patches_per_image], dim=-1)
        # Stable, so that of equals the first stays.
        order = attention.sort(dim=-1, descending=True, stable=True).indices[..., : self.num_patches]
        self.attention, self.images, self.patches = (part.gather(-1, order) for part in (attention, images, patches))


def measure_slot_use(
    model: PreTrainedModel, loader: Iterable[dict[str, torch.Tensor]], num_patches: int = 8
) -> tuple[SlotUse, StrongestPatches]:
    """
    Count which slots the tokens of a set retrieve, and find the patches that retrieve each most strongly.

    Args:
        model: An AiT with any head; it stays as it is.
        loader: Batches of `pixel_values`, and `question` `(batch_size, question_size)` if the model takes one.
        num_patches: Patches to find for each slot; fewer if the set has fewer.

    Raises:
        InputError: if the model has no memory, or the loader no batch.
    """
    use, num_images = start_slot_use(model), 0
    num_layers, num_slots = use.tokens.shape
    strongest = StrongestPatches(num_layers, num_slots, num_patches)
    with keep_as_it_is(model):
        for batch in loader:
            outputs = model(**select_inputs(model, batch), output_workspace=True)
            for layer_index, attention in enumerate(outputs.retrieval_attentions):
                use.add(layer_index, attention)
            patches = locate_tokens(model, batch["pixel_values"]).patches
            strongest.add(torch.stack(outputs.retrieval_attentions)[:, :, patches].float().cpu(), num_images)
            num_images += len(batch["pixel_values"])
    if num_images == 0:
        raise InputError("There is no image to measure the use of the slots with.")
    return use, strongest


def compare_slots(memories: Iterable[torch.Tensor]) -> torch.Tensor:
    """Cosine similarity of the slots of each layer to each other, (num_layers, num_slots, num_slots)."""
    normed = torch.stack([torch.nn.functional.normalize(memory.float().cpu(), dim=-1) for memory in memories])
    return torch.matmul(normed, normed.transpose(1, 2))


def measure_movement(before: Iterable[torch.Tensor], after: Iterable[torch.Tensor]) -> torch.Tensor:
    """Angle between each slot before and after, in degrees, (num_layers, num_slots)."""
    one, other = (
        torch.stack([torch.nn.functional.normalize(memory.detach().double().cpu(), dim=-1) for memory in memories])
        for memories in (before, after)
    )
    # By both half-sums, since an arc cosine is blind to small angles.
    return torch.rad2deg(2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1)))


def read_memories(folder: Path) -> list[torch.Tensor]:
    """
    Read the memories of a checkpoint's folder without building its model, one for each layer.

    Raises:
        InputError: if there are none, or they cannot be read.
    """
    memories: dict[int, torch.Tensor] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # it is no mapping
                    if found := MEMORY_NAME.fullmatch(name):
                        memories[int(found[1])] = weights.get_tensor(name).float()
    except LOADING_ERRORS as error:
        raise InputError(f"The weights in {str(folder)!r} cannot be read: {flatten_message(error)}.") from error
    if not memories:
        raise InputError(f"{str(folder)!r} holds no memories of an AiT (in *.safetensors): name a checkpoint.")
    return [memories[layer_index] for layer_index in sorted(memories)]
