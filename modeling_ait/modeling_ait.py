"""PyTorch AiT model: the Associative Transformer (Sun et al., CVPR 2025, arXiv 2309.12862)."""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_ait import AiTConfig, stage_files
from .workspace_ait import AiTMemoryRetrieval, AiTMemoryWrite, AiTWorkspace


# Every checkpoint names all of them, so that a saved classifier opens with `AutoModel` and the other way round.
AUTO_MAP = {
    "AutoConfig": "configuration_ait.AiTConfig",
    "AutoModel": "modeling_ait.AiTModel",
    "AutoModelForImageClassification": "modeling_ait.AiTForImageClassification",
    "AutoModelForVisualQuestionAnswering": "modeling_ait.AiTForRelationalReasoning",
}


@dataclass
class AiTModelOutput(BaseModelOutputWithPooling):
    r"""
    Output of [`AiTModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Tokens after the last block, not normed.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, pooled_size)`):
            Pooled and normed tokens. `pooled_size` is `hidden_size`, or `sequence_length * hidden_size` with
            `pooling="flatten"`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*, with `output_hidden_states=True`):
            Embeddings and the output of each block, `(batch_size, sequence_length, hidden_size)` each.
        attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_attentions=True`):
            Self-attention of each layer, `(batch_size, num_attention_heads, sequence_length, sequence_length)`.
        balance_loss (`torch.FloatTensor` of shape `()`, *optional*, when the memory was written):
            Balance loss, summed over layers and heads.
        retrieval_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_workspace=True`):
            Per layer `(batch_size, sequence_length, num_memory_slots)`: which slot a token retrieved.
        write_attentions (`tuple[torch.FloatTensor]`, *optional*, with `output_workspace=True` when written):
            Per layer `(num_memory_heads, num_memory_slots, batch_size, sequence_length)`: which tokens a slot wrote.
        energies (`tuple[torch.FloatTensor]`, *optional*, with `output_workspace=True`):
            Per layer `(2, batch_size, sequence_length)`: Hopfield energy of each token before and after retrieval.
    """

    balance_loss: torch.Tensor | None = None
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
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Scores before the softmax.
        hidden_states, attentions, balance_loss, retrieval_attentions, write_attentions, energies:
            As in [`AiTModelOutput`].
    """

    balance_loss: torch.Tensor | None = None
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


def make_initial_memory(shape: torch.Size, layer_index: int) -> torch.Tensor:
    """Draw a layer's first memory, N(0, 1) of shape (M, D), from a random stream of its own: always the same one."""
    generator = torch.Generator().manual_seed(layer_index)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def read_memory(memory: torch.Tensor) -> torch.Tensor:
    """Copy a memory buffer, always as float32: mixed-precision wrappers may have cast the buffer behind our back."""
    # Autograd keeps what the layers read, and the commit overwrites the buffer before the backward pass. A plain clone
    # would do, but torch.compile's inductor takes it for a no-op, keeps the buffer itself and computes wrong
    # gradients (pytorch issue 198131); what it neither drops nor recomputes is padding, cut off again.
    return nn.functional.pad(memory.float(), (0, 0, 0, 1))[:-1]


def find_prime_factors(number: int) -> list[int]:
    """Prime factors of a number, smallest first."""
    factors, candidate = [], 2
    while number > 1:
        while number % candidate == 0:
            factors.append(candidate)
            number //= candidate
        candidate += 1
    return factors


class AiTConvolutionalStem(nn.Module):
    """
    Embed an image by strided convolutions, (B, C, H, W) -> (B, N, E), after Xiao et al. (2021, arXiv 2106.14881).

    One convolution for each prime factor of the patch size, as its stride, with as many channels as keep the width of
    the last one at `hidden_size`, halved towards the first. The norms are over the channels of all positions together
    (GroupNorm with one group): unlike BatchNorm no sample sees another.
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        strides = find_prime_factors(config.patch_shape[0])
        channels = [config.num_channels]
        channels += [max(8, config.hidden_size >> (len(strides) - index)) for index in range(1, len(strides))]
        channels.append(config.hidden_size)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(before, after, kernel_size=2 * stride - 1, stride=stride, padding=stride - 1)
                for before, after, stride in zip(channels, channels[1:], strides)
            ]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(1, after, eps=config.layer_norm_eps) for after in channels[1:-1]])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms):
            pixel_values = nn.functional.gelu(norm(convolution(pixel_values)))
        return self.convolutions[-1](pixel_values).flatten(2).transpose(1, 2)


class AiTPatchEmbeddings(nn.Module):
    """
    Split images into patches and embed each, (B, C, H, W) -> (B, N, E): LayerNorm, Linear, LayerNorm.

    With `use_vit_norms` it is the Linear alone; with the convolutional stem, the stem and the last LayerNorm.
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.image_shape = config.image_shape
        self.patch_shape = config.patch_shape
        self.num_channels = config.num_channels
        self.grid_shape = tuple(image // patch for image, patch in zip(self.image_shape, self.patch_shape))
        self.num_patches = self.grid_shape[0] * self.grid_shape[1]
        patch_size = self.patch_shape[0] * self.patch_shape[1] * config.num_channels
        norm_class = nn.Identity if config.use_vit_norms else nn.LayerNorm
        self.stem = None
        if config.patch_stem == "convolutional":
            self.stem = AiTConvolutionalStem(config)
        else:
            self.layernorm_before = norm_class(patch_size, eps=config.layer_norm_eps)
            self.projection = nn.Linear(patch_size, config.hidden_size)
        self.layernorm_after = norm_class(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.dim() != 4:
            raise ValueError(
                "`pixel_values` must have the shape (batch_size, num_channels, height, width), "
                f"but got {tuple(pixel_values.shape)}."
            )
        batch_size, num_channels, height, width = pixel_values.shape
        if num_channels != self.num_channels:
            raise ValueError(
                f"The images have {num_channels} channels, but the model was configured for {self.num_channels} "
                "(`num_channels`). Convert the images (for instance with `image.convert('RGB')`) or change the config."
            )
        if (height, width) != self.image_shape:
            raise ValueError(
                f"The images are {height} x {width} pixels (height x width), but the model was configured for "
                f"{self.image_shape[0]} x {self.image_shape[1]} (`image_size`). Resize them with the image processor."
            )
        if self.stem is not None:
            # deviation: `patch_stem="convolutional"` embeds the patches by convolutions; the paper by one projection.
            return self.layernorm_after(self.stem(pixel_values))
        (rows, columns), (patch_height, patch_width) = self.grid_shape, self.patch_shape
        patches = pixel_values.reshape(batch_size, num_channels, rows, patch_height, columns, patch_width)
        patches = patches.permute(0, 2, 4, 3, 5, 1)  # (batch_size, rows, columns, patch_height, patch_width, channels)
        patches = patches.flatten(3).flatten(1, 2)  # (batch_size, num_patches, patch_size)
        return self.layernorm_after(self.projection(self.layernorm_before(patches)))


class AiTQuestionEmbeddings(nn.Module):
    """Embed a question vector as a token, (B, question_size) -> (B, 1, E): LayerNorm, Linear, LayerNorm."""

    def __init__(self, question_size: int, config: AiTConfig):
        super().__init__()
        self.question_size = question_size
        self.layernorm_before = nn.LayerNorm(question_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(question_size, config.hidden_size)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, question: torch.Tensor) -> torch.Tensor:
        if question.dim() != 2 or question.shape[1] != self.question_size:
            raise ValueError(
                f"`question` must have the shape (batch_size, {self.question_size}) (`question_size`), "
                f"but got {tuple(question.shape)}."
            )
        question = question.to(self.projection.weight.dtype)
        return self.layernorm_after(self.projection(self.layernorm_before(question))).unsqueeze(1)


class AiTEmbeddings(nn.Module):
    """Patch embeddings, behind a CLS token, register tokens and a question where the configuration asks for them."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.patch_embeddings = AiTPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.pooling == "cls" else None
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, config.num_register_tokens, config.hidden_size))
            if config.num_register_tokens > 0
            else None
        )
        self.question_embeddings = (
            AiTQuestionEmbeddings(config.question_size, config) if config.question_size is not None else None
        )
        num_prefix_tokens = (config.pooling == "cls") + config.num_register_tokens + (config.question_size is not None)
        self.num_tokens = num_prefix_tokens + self.patch_embeddings.num_patches
        self.position_embeddings = (
            nn.Parameter(torch.zeros(1, self.num_tokens, config.hidden_size))
            if config.position_embedding_type == "learned"
            else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    @property
    def learned_tokens(self) -> list[torch.Tensor]:
        """The CLS token and the register tokens, as far as there are any: (1, number, hidden_size) each."""
        return [tokens for tokens in (self.cls_token, self.register_tokens) if tokens is not None]

    def forward(self, pixel_values: torch.Tensor, question: torch.Tensor | None = None) -> torch.Tensor:
        embeddings = self.patch_embeddings(pixel_values)  # (batch_size, num_patches, hidden_size)
        if (question is None) != (self.question_embeddings is None):
            raise ValueError(
                "This model was configured without a question (`question_size` is None), but `question` was given."
                if self.question_embeddings is None
                else f"This model needs `question`, of shape (batch_size, {self.question_embeddings.question_size})."
            )
        tokens = [token.expand(embeddings.shape[0], -1, -1) for token in self.learned_tokens]
        if self.question_embeddings is not None:
            tokens.append(self.question_embeddings(question))
        embeddings = torch.cat([*tokens, embeddings], dim=1)  # (batch_size, num_tokens, hidden_size)
        if self.position_embeddings is not None:
            embeddings = embeddings + self.position_embeddings
        return self.dropout(embeddings)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    attention = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch_size, num_heads, num_tokens, num_tokens)
    if attention_mask is not None:
        attention = attention + attention_mask
    attention = nn.functional.softmax(attention, dim=-1, dtype=torch.float32).to(query.dtype)
    attention = nn.functional.dropout(attention, p=dropout, training=module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


class AiTAttention(nn.Module):
    """Multi-head self-attention within a sample, (B, N, E) -> (B, N, E)."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.scaling = self.head_dim**-0.5
        self.is_causal = False

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)  # (batch_size, heads, tokens, head_dim)
        key = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, attention = attention_interface(
            self,
            query,
            key,
            value,
            None,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.reshape(*input_shape, -1).contiguous()), attention


class AiTMLP(nn.Module):
    """Two-layer perceptron, with and without a LayerNorm on its output, (B, N, E) -> 2 x (B, N, E)."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        # A ViT without a workspace has no use for it.
        is_used = config.num_memory_slots > 0 or not config.use_vit_norms
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if is_used else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states = self.fc2(self.activation_fn(self.fc1(hidden_states)))
        return hidden_states, self.layernorm(hidden_states)


class AiTLayer(GradientCheckpointingLayer):
    """
    One block: self-attention, MLP, and the workspace between the MLP and its residual.

    It takes the memory and returns a new one. It changes no buffer, so that activation checkpointing can run it twice.
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AiTAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = AiTMLP(config)
        self.workspace = AiTWorkspace(config) if config.num_memory_slots > 0 else None
        self.use_vit_norms = config.use_vit_norms
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor | None = None,
        update_memory: bool = False,
        output_energies: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        attended, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        hidden_states = hidden_states + self.dropout(attended)

        mlp_output, tokens = self.mlp(self.layernorm_after(hidden_states))  # 2 x (batch_size, num_tokens, hidden_size)
        # deviation: with `use_vit_norms` the residual gets the MLP's output without the norm, as in a ViT.
        update = mlp_output if self.use_vit_norms else tokens
        balance_loss = None
        if self.workspace is not None:
            if update_memory:
                memory, balance_loss, _ = self.workspace.write(memory, tokens)
            retrieved, _, _ = self.workspace.retrieve(memory, tokens, output_energies=output_energies)
            update = update + retrieved
        return hidden_states + self.dropout(update), memory, balance_loss


class AiTPreTrainedModel(PreTrainedModel):
    """Weight initialisation, abilities and saving that all AiT models share."""

    config: AiTConfig
    config_class = AiTConfig
    base_model_prefix = "ait"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["AiTEmbeddings", "AiTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keep_in_fp32_modules_strict = [r"memory_\d+"]
    _can_record_outputs = {
        "hidden_states": AiTLayer,
        "attentions": AiTAttention,
        "retrieval_attentions": OutputRecorder(AiTMemoryRetrieval, index=1),
        "write_attentions": OutputRecorder(AiTMemoryWrite, index=2),
        "energies": OutputRecorder(AiTMemoryRetrieval, index=2),
    }
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, AiTEmbeddings):
            for parameter in (*module.learned_tokens, module.position_embeddings):
                if parameter is not None:
                    init.trunc_normal_(parameter, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, (AiTMemoryWrite, AiTMemoryRetrieval)):
            for projection in module.children():
                if isinstance(projection, nn.Linear):
                    # `initializer_range` is meant for inputs hundreds wide. From slots 32 wide it would give logits
                    # so close to 0 that nothing competes: the variance is PyTorch's, as in the official code.
                    init.normal_(projection.weight, mean=0.0, std=(3 * projection.in_features) ** -0.5)
        elif isinstance(module, AiTModel):
            for layer_index, memory in enumerate(module.memories):
                init.copy_(memory, make_initial_memory(memory.shape, layer_index))

    def save_pretrained(  # type: ignore[override]  # the arguments left out pass through `kwargs`
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ):
        """
        Save weights, configuration and code into a folder; a save that fails leaves an older checkpoint there intact.

        Everything is written beside the old files first and moved over them at the end. Arguments are those of
        [`~transformers.PreTrainedModel.save_pretrained`].
        """
        if kwargs.get("distributed_checkpoint") or os.path.isfile(save_directory):
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)
            return
        # The code of every Auto class travels, whichever class is saved.
        self.config.auto_map = dict(AUTO_MAP)
        # A copy of the dictionary, because saving empties it.
        with stage_files(save_directory) as staging:
            super().save_pretrained(staging, is_main_process, None if state_dict is None else {**state_dict}, **kwargs)
            saved = os.listdir(staging)
        # Left from an earlier save in other shards, they would be loaded in place of the new weights.
        variant = "" if kwargs.get("variant") is None else re.escape(f".{kwargs['variant']}")
        pattern = re.compile(rf"model{variant}(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index{variant}\.json")
        if any(pattern.fullmatch(name) for name in saved):
            for name in os.listdir(save_directory):
                if pattern.fullmatch(name) and name not in saved:
                    os.remove(os.path.join(save_directory, name))
        if push_to_hub:
            # From a folder of its own, so that the local save is complete whatever becomes of the upload.
            kwargs.setdefault("repo_id", os.path.basename(os.path.abspath(save_directory)))
            with tempfile.TemporaryDirectory() as folder:
                super().save_pretrained(folder, is_main_process, state_dict, push_to_hub=is_main_process, **kwargs)


class AiTModel(AiTPreTrainedModel):
    r"""
    The AiT encoder: patch embeddings, blocks with a workspace each, pooling and a final LayerNorm.

    It owns one float32 memory per layer. A forward in training mode writes each once; in evaluation mode the memories
    are read only, so that a sample's output depends on no other sample.

    Args:
        config ([`AiTConfig`]):
            Configuration.
    """

    def __init__(self, config: AiTConfig):
        super().__init__(config)
        self.embeddings = AiTEmbeddings(config)
        self.layers = nn.ModuleList([AiTLayer(config) for _ in range(config.num_hidden_layers)])
        self.pooled_size = config.hidden_size * (self.embeddings.num_tokens if config.pooling == "flatten" else 1)
        self.layernorm = nn.LayerNorm(self.pooled_size, eps=config.layer_norm_eps)
        self.num_memories = config.num_hidden_layers if config.num_memory_slots > 0 else 0
        for layer_index in range(self.num_memories):
            # Filled here as well as in `_init_weights`, which some loaders skip. A copy stays on the meta device.
            memory = torch.empty(config.num_memory_slots, config.memory_slot_size, dtype=torch.float32)
            memory.copy_(make_initial_memory(memory.shape, layer_index))
            self.register_buffer(f"memory_{layer_index}", memory)
        self.post_init()

    @property
    def memories(self) -> tuple[torch.Tensor, ...]:
        """The float32 memory of each layer, (num_memory_slots, memory_slot_size) each; empty without a workspace."""
        return tuple(self.get_buffer(f"memory_{layer_index}") for layer_index in range(self.num_memories))

    def _apply(self, fn, recurse=True):
        # `.half()` and `.to(torch.bfloat16)` cast every buffer, and a memory that was rounded once stays rounded.
        before = self.memories
        super()._apply(fn, recurse)
        for layer_index, memory in enumerate(before):
            after = self.memories[layer_index]
            if after.dtype != torch.float32:
                self.register_buffer(f"memory_{layer_index}", memory.to(after.device))
        return self

    @torch.no_grad()
    def _commit(self, new_memories: list[torch.Tensor]):
        """Replace the memories in place, all of them or, if any value is not finite, none."""
        new_memories = [new.to(old.device) for new, old in zip(new_memories, self.memories)]
        is_finite = torch.stack([memory.isfinite().all() for memory in new_memories]).all()
        for old, new in zip(self.memories, new_memories):
            old.copy_(torch.where(is_finite, new, old))

    @expand_output_workspace
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        question: torch.Tensor | None = None,
        update_memory: bool | None = None,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTModelOutput:
        r"""
        Encode images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Images of the configured size, as the image processor returns them.
            question (`torch.FloatTensor` of shape `(batch_size, question_size)`, *optional*):
                Question vectors; needed if the configuration has a `question_size`, refused otherwise.
            update_memory (`bool`, *optional*):
                Whether to write the batch into the memories before reading them. Defaults to `self.training`. When
                written, all samples of the batch compete, so an output depends on the other samples, and the
                memory buffers change once, at the end, unless a new value is not finite. `True` in evaluation mode is
                the official code's behaviour (online adaptation); `False` in training mode keeps the memories fixed.
            output_workspace (`bool`, *optional*):
                Whether to return `retrieval_attentions`, `write_attentions` and `energies`.

        Raises:
            `ValueError`: if `pixel_values` or `question` is missing or does not fit the configuration.
        """
        if pixel_values is None:
            raise ValueError("You have to specify `pixel_values`.")
        if update_memory is None:
            update_memory = self.training
        update_memory = update_memory and self.num_memories > 0

        pixel_values = pixel_values.to(self.layernorm.weight.dtype)
        hidden_states = self.embeddings(pixel_values, question)
        memories: list = [read_memory(memory) for memory in self.memories] or [None] * len(self.layers)
        balance_losses = []
        for layer_index, layer in enumerate(self.layers):
            hidden_states, memories[layer_index], balance_loss = layer(
                hidden_states, memories[layer_index], update_memory=update_memory, **kwargs
            )
            balance_losses.append(balance_loss)

        total_balance_loss = None
        if update_memory:
            self._commit(memories)
            total_balance_loss = torch.stack([loss.to(balance_losses[0].device) for loss in balance_losses]).sum()

        if self.config.pooling == "mean":
            pooled = hidden_states.mean(dim=1)
        elif self.config.pooling == "cls":
            pooled = hidden_states[:, 0]
        else:
            pooled = hidden_states.flatten(1)
        return AiTModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=self.layernorm(pooled),  # (batch_size, pooled_size)
            balance_loss=total_balance_loss,
        )


class AiTClassifier(AiTPreTrainedModel):
    """What the models with a classifier on the pooled tokens share."""

    # The loss is a mean over the micro-batch plus a term that is no mean over samples: the Trainer has to divide both
    # by the accumulation steps, which it leaves out for models whose forward takes keyword arguments.
    accepts_loss_kwargs = False

    def __init__(self, config: AiTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.loss_type = "ForImageClassification"
        self.ait = AiTModel(config)
        self.classifier = nn.Linear(self.ait.pooled_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    def classify(self, outputs: AiTModelOutput, labels: torch.Tensor | None, **kwargs) -> AiTClassifierOutput:
        """Turn the encoder's output into logits and, with labels, the loss."""
        logits = self.classifier(outputs.pooler_output)  # (batch_size, num_labels)

        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **kwargs)
            if outputs.balance_loss is not None:
                loss = loss + self.config.balance_loss_coef * outputs.balance_loss.to(loss.device)

        return AiTClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            balance_loss=outputs.balance_loss,
            retrieval_attentions=outputs.retrieval_attentions,
            write_attentions=outputs.write_attentions,
            energies=outputs.energies,
        )


class AiTForImageClassification(AiTClassifier):
    r"""
    AiT with a linear classifier on the pooled tokens.

    Args:
        config ([`AiTConfig`]):
            Configuration. `num_labels` or `id2label` sets the classes.
    """

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        update_memory: bool | None = None,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTClassifierOutput:
        r"""
        Classify images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Images of the configured size, as the image processor returns them.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class indices in `[0, num_labels)`, or targets for the config's `problem_type`. With them the output
                has `loss`, which includes the balance loss when the memory was written.
            update_memory (`bool`, *optional*):
                Whether to write the memories, see [`AiTModel.forward`]. Defaults to `self.training`.
            output_workspace (`bool`, *optional*):
                Whether to return `retrieval_attentions`, `write_attentions` and `energies`.

        Raises:
            `ValueError`: if `pixel_values` is missing or its shape does not fit the configuration.

        Example:

        ```python
        >>> import torch
        >>> from modeling_ait import AiTConfig, AiTForImageClassification

        >>> model = AiTForImageClassification(AiTConfig.from_size("small", image_size=32, patch_size=4)).eval()
        >>> list(model(torch.zeros(1, 3, 32, 32)).logits.shape)
        [1, 2]
        ```"""
        return self.classify(self.ait(pixel_values, update_memory=update_memory, **kwargs), labels, **kwargs)


class AiTForRelationalReasoning(AiTClassifier):
    r"""
    AiT that answers a question about an image (AiT, section "Relational reasoning"; Sort-of-CLEVR).

    The question vector becomes a token (LayerNorm, Linear, LayerNorm) in front of the patches; a linear classifier
    on the pooled tokens gives the answer.

    Args:
        config ([`AiTConfig`]):
            Configuration, with a `question_size`. `num_labels` or `id2label` sets the answers.

    Raises:
        `ValueError`: if the configuration has no `question_size`.
    """

    def __init__(self, config: AiTConfig):
        if config.question_size is None:
            raise ValueError(
                f"{type(self).__name__} needs the width of its question vector: set `question_size` in the config "
                "(18 for Sort-of-CLEVR). Without a question use AiTForImageClassification."
            )
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        question: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        update_memory: bool | None = None,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTClassifierOutput:
        r"""
        Answer one question for each image.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Images of the configured size.
            question (`torch.FloatTensor` of shape `(batch_size, question_size)`):
                Question vectors.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Indices of the answers in `[0, num_labels)`. With them the output has `loss`, which includes the
                balance loss when the memory was written.
            update_memory (`bool`, *optional*):
                Whether to write the memories, see [`AiTModel.forward`]. Defaults to `self.training`.
            output_workspace (`bool`, *optional*):
                Whether to return `retrieval_attentions`, `write_attentions` and `energies`.

        Raises:
            `ValueError`: if `pixel_values` or `question` is missing or does not fit the configuration.
        """
        return self.classify(self.ait(pixel_values, question, update_memory=update_memory, **kwargs), labels, **kwargs)


# Here and not in the package, so that a model loaded from the Hub, without the package, saves its code again.
AiTModel.register_for_auto_class("AutoModel")
AiTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
AiTForRelationalReasoning.register_for_auto_class("AutoModelForVisualQuestionAnswering")

__all__ = ["AiTForImageClassification", "AiTForRelationalReasoning", "AiTModel", "AiTPreTrainedModel"]
