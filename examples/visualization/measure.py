"""What the memories of a model do with a batch of images, as numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from examples.errors import InputError


@dataclass(frozen=True)
class TokenLayout:
    """
    Which tokens of an image are its patches. CLS, register and question tokens are none.

    Args:
        grid: Rows and columns of patches.
        first_patch: Place of the first patch in the sequence; the others follow row by row.
        question: Place of the question, if there is one.
    """

    grid: tuple[int, int]
    first_patch: int
    question: int | None

    @property
    def patches(self) -> slice:
        """The places of the patches in the sequence."""
        return slice(self.first_patch, self.first_patch + self.grid[0] * self.grid[1])


@dataclass(frozen=True)
class Observation:
    """
    What a model did with the tokens of a batch, float32 on the CPU.

    Args:
        layout: Which tokens are patches.
        logits: `(batch_size, num_labels)`.
        retrieval: Retrieval attention of each layer, `(num_layers, batch_size, num_tokens, num_slots)`.
        energies: Hopfield energy before and after retrieval, `(num_layers, 2, batch_size, num_tokens)`.
        question_attention: Self-attention of the question to the patches, a mean over heads, `(num_layers,
            batch_size, num_patches)`, zeros for a layer without self-attention; `None` without a question.
    """

    layout: TokenLayout
    logits: torch.Tensor
    retrieval: torch.Tensor
    energies: torch.Tensor
    question_attention: torch.Tensor | None

    @property
    def patch_retrieval(self) -> torch.Tensor:
        """Retrieval attention of the patches, (num_layers, batch_size, num_patches, num_slots)."""
        return self.retrieval[:, :, self.layout.patches]

    @property
    def patch_energies(self) -> torch.Tensor:
        """Energies of the patches before and after, (num_layers, 2, batch_size, num_patches)."""
        return self.energies[:, :, :, self.layout.patches]

    @property
    def question_retrieval(self) -> torch.Tensor | None:
        """Retrieval attention of the question, (num_layers, batch_size, num_slots)."""
        return None if self.layout.question is None else self.retrieval[:, :, self.layout.question]


def get_encoder(model: PreTrainedModel) -> Any:
    """
    The `AiTModel` of a model with any head, or itself.

    Raises:
        InputError: if the model has no memory.
    """
    encoder: Any = model.base_model
    if getattr(getattr(encoder, "memory", None), "num_layers", 0) == 0:
        raise InputError(
            f"This {type(model).__name__} has no memory to look at (`num_memory_slots` is 0, or it is no AiT): take a "
            "checkpoint with a workspace."
        )
    return encoder


def locate_tokens(model: PreTrainedModel, pixel_values: torch.Tensor) -> TokenLayout:
    """Say which tokens of images of this size, asked one question each if any, are patches."""
    embeddings = get_encoder(model).embeddings
    rows, columns = embeddings.patch_embeddings.get_grid(tuple(pixel_values.shape[-2:]))
    num_prefix_tokens = sum(prefix.shape[1] for prefix in embeddings.prefix_tokens)
    if embeddings.question_embeddings is None:
        return TokenLayout((rows, columns), num_prefix_tokens, None)
    if embeddings.has_independent_questions:
        return TokenLayout((rows, columns), num_prefix_tokens, num_prefix_tokens + rows * columns)
    return TokenLayout((rows, columns), num_prefix_tokens + 1, num_prefix_tokens)


@contextmanager
def keep_as_it_is(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation without gradients, and back into the modes of all its modules."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def compute_attention_weights(model: PreTrainedModel) -> Iterator[None]:
    """Let the self-attention return its weights, which the fused kernels do not."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def select_inputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The images of a batch, and one question for each if there are any, where the model is."""
    inputs: dict[str, torch.Tensor] = {
        name: batch[name].to(model.device) for name in ("pixel_values", "question") if name in batch
    }
    question = inputs.get("question")
    if question is not None and question.dim() != 2:
        raise ValueError(f"One question for each image is looked at, but `question` is {tuple(question.shape)}.")
    return inputs


def observe(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> Observation:
    """
    Run a batch through a model with a classifier and keep what its memories did; the model stays as it is.

    Args:
        model: `AiTForImageClassification` or `AiTForRelationalReasoning`.
        batch: `pixel_values` `(batch_size, num_channels, height, width)`, and `question` `(batch_size,
            question_size)` for a model that takes one; more is ignored.

    Raises:
        InputError: if the model has no memory.
        ValueError: for several questions about an image, or what the model itself refuses.
    """
    layout, inputs = locate_tokens(model, batch["pixel_values"]), select_inputs(model, batch)
    with keep_as_it_is(model), compute_attention_weights(model):
        outputs = model(**inputs, output_workspace=True, output_attentions=layout.question is not None)
    retrieval = torch.stack(outputs.retrieval_attentions).float().cpu()
    question_attention = None
    if layout.question is not None:
        # A layer without self-attention looks at nothing.
        question_attention = torch.zeros_like(retrieval[:, :, layout.patches, 0])
        for layer, weights in zip(model.config.layers_with_attention, outputs.attentions or ()):
            question_attention[layer] = weights[:, :, layout.question, layout.patches].mean(dim=1)
    return Observation(
        layout,
        outputs.logits.float().cpu(),
        retrieval,
        torch.stack(outputs.energies).float().cpu(),
        question_attention,
    )


def read_write_attentions(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """
    How a batch would be written, (num_layers, num_heads, num_slots, batch_size, num_tokens); no memory changes.

    The tokens of all images compete, in each layer as evaluation has them, with nothing written in those before. Of a
    question that the image does not see there is no token here.

    Args:
        model: As for `observe`.
        batch: As for `observe`.
    """
    with keep_as_it_is(model):
        outputs = model(**select_inputs(model, batch), output_workspace=True)
    return torch.stack(outputs.write_attentions).float().cpu()


def measure_write(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """
    Share of the write that each patch of a batch wins, (num_layers, batch_size, num_patches).

    Of a layer, the attention of all slots and heads to the tokens of the batch sums to 1; what CLS, register and
    question tokens win is missing here.

    Args:
        model: As for `observe`.
        batch: As for `observe`.
    """
    attention = read_write_attentions(model, batch)
    shares = attention.mean(dim=(1, 2))  # (num_layers, batch_size, num_tokens)
    return shares[:, :, locate_tokens(model, batch["pixel_values"]).patches]
