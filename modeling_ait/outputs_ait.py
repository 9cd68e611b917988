"""What the AiT models return, and the keyword arguments that ask for more of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import TransformersKwargs


@dataclass
class AiTModelOutput(BaseModelOutputWithPooling):
    r"""
    Output of [`AiTModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Tokens after the last block, not normed. With several questions for an image, each is a sample here, unless
            `question_attention` is `"independent"`: then the questions are the last tokens of their image.
        pooler_output (`torch.FloatTensor` of shape `(batch_size[, num_questions], pooled_size)`):
            Pooled and normed tokens. `pooled_size` is `hidden_size`, or `sequence_length * hidden_size` with
            `pooling="flatten"`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, with `output_hidden_states=True`):
            Embeddings and the output of each block, `(batch_size, sequence_length, hidden_size)` each.
        attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_attentions=True`):
            Self-attention of each layer that has it (`attention_layers`), `(batch_size, num_attention_heads,
            sequence_length, sequence_length)`. With `question_attention="independent"` there are columns for the image
            tokens, and one more for itself.
        balance_loss (`torch.FloatTensor` of shape `()`, *optional*, when the memory was written):
            Balance loss, summed over layers and heads.
        memory_written (`torch.BoolTensor` of shape `()`, *optional*, when the memory was to be written):
            Whether it was: `False` if a new value was not finite, so that every memory stayed as it was. On the
            model's device, so that only a look at it waits for the device.
        retrieval_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_workspace=True`):
            Per layer `(batch_size, sequence_length, num_memory_slots)`: which slot a token retrieved.
        write_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_workspace=True`):
            Per layer `(num_memory_heads, num_memory_slots, batch_size, sequence_length)`: which tokens a slot wrote.
            In evaluation without a write: which it would have written, without a gradient; all else stays the same.
            In training without a write there are none. With `question_attention="independent"` the sequence is the
            image tokens alone.
        energies (`tuple[torch.FloatTensor]`, *optional*, with `output_workspace=True`):
            Per layer `(2, batch_size, sequence_length)`: Hopfield energy of each token before and after retrieval.
    """

    balance_loss: torch.Tensor | None = None
    memory_written: torch.Tensor | None = None
    retrieval_attentions: tuple[torch.Tensor, ...] | None = None
    write_attentions: tuple[torch.Tensor, ...] | None = None
    energies: tuple[torch.Tensor, ...] | None = None


@dataclass
class AiTClassifierOutput(ImageClassifierOutput):
    r"""
    Output of [`AiTForImageClassification`] and [`AiTForRelationalReasoning`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`):
            Task loss, plus `balance_loss_coef` times the balance loss when the memory was written.
        logits (`torch.FloatTensor` of shape `(batch_size[, num_questions], num_labels)`):
            Scores before the softmax.
        hidden_states, attentions, balance_loss, memory_written, retrieval_attentions, write_attentions, energies:
            As in [`AiTModelOutput`].
    """

    balance_loss: torch.Tensor | None = None
    memory_written: torch.Tensor | None = None
    retrieval_attentions: tuple[torch.Tensor, ...] | None = None
    write_attentions: tuple[torch.Tensor, ...] | None = None
    energies: tuple[torch.Tensor, ...] | None = None


class AiTKwargs(TransformersKwargs, total=False):
    """
    Keyword arguments of the models beyond those of transformers.

    Attributes:
        output_workspace (`bool`, *optional*):
            Whether to return `retrieval_attentions`, `write_attentions` and `energies`.
    """

    output_workspace: bool | None


def expand_output_workspace(forward: Callable) -> Callable:
    """Turn `output_workspace` into one flag for each recorded output, as `capture_outputs` reads them."""

    @wraps(forward)
    def wrapper(self, *args, output_workspace: bool | None = None, **kwargs):
        if output_workspace:
            kwargs.update(output_retrieval_attentions=True, output_write_attentions=True, output_energies=True)
        return forward(self, *args, **kwargs)

    return wrapper
