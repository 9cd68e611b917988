"""The global workspace of AiT: the memory, the bottleneck write into it with its balance loss, and the retrieval."""

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .configuration_ait import AiTConfig
from .hopfield_ait import compute_energy, retrieve_patterns


def make_initial_memory(shape: torch.Size, layer_index: int) -> torch.Tensor:
    """Draw a layer's first memory, N(0, 1) of shape (M, D), from a random stream of its own: always the same one."""
    generator = torch.Generator().manual_seed(layer_index)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


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
    def commit(self, new_memories: list[torch.Tensor]) -> None:
        """Replace the memories in place, all of them or, if any value is not finite, none."""
        new_memories = [new.to(old.device) for new, old in zip(new_memories, self.buffers_by_layer)]
        is_finite = torch.stack([memory.isfinite().all() for memory in new_memories]).all()
        for old, new in zip(self.buffers_by_layer, new_memories):
            old.copy_(torch.where(is_finite, new, old))

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


def attend_through_bottleneck(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bottleneck_size: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Let every slot attend to the tokens that fit it best, (S, M, D) x (S, L, D) -> (S, M, D).

    All L tokens of the batch compete here, and nowhere else in the model: an exchange between data-parallel processes
    belongs into this function. The softmax runs over the `bottleneck_size` largest logits of each slot and head; the
    other tokens get exactly 0 (AiT, section "Bottleneck attention").

    Args:
        query (`torch.Tensor` of shape `(num_heads, num_slots, head_dim)`): Projected slots, float32.
        key (`torch.Tensor` of shape `(num_heads, num_tokens, head_dim)`): Projected tokens, float32.
        value (`torch.Tensor` of shape `(num_heads, num_tokens, head_dim)`): Projected tokens, float32.
        bottleneck_size (`int`, *optional*): Tokens that a slot keeps; `None`, or more than there are, keeps all.

    Returns:
        The attended values `(num_heads, num_slots, head_dim)`, the attention `(num_heads, num_slots, num_tokens)`,
        and the loads `(num_heads, num_tokens)`: the number of slots that selected a token, without gradient.
    """
    num_heads, num_slots, head_dim = query.shape
    num_tokens = key.shape[1]
    logits = torch.matmul(query * head_dim**-0.5, key.transpose(1, 2))  # (num_heads, num_slots, num_tokens)
    if bottleneck_size is None or bottleneck_size >= num_tokens:
        attention = nn.functional.softmax(logits, dim=-1)
        loads = logits.new_full((num_heads, num_tokens), num_slots)
    else:
        kept_logits, kept_tokens = logits.topk(bottleneck_size, dim=-1, sorted=False)
        # The scattered weights are dense but cheap: gathering the values instead would make the backward pass
        # fill a tensor of num_heads x num_slots x num_tokens x head_dim.
        attention = torch.zeros_like(logits).scatter(-1, kept_tokens, nn.functional.softmax(kept_logits, dim=-1))
        kept_tokens = kept_tokens.flatten(1)  # (num_heads, num_slots * bottleneck_size)
        # Counted from the selection, not from positive weights: a kept token's weight can underflow to 0.
        loads = logits.new_zeros(num_heads, num_tokens).scatter_add(
            -1, kept_tokens, logits.new_ones(kept_tokens.shape)
        )
    return torch.matmul(attention, value), attention, loads


def compute_cv_squared(values: torch.Tensor) -> torch.Tensor:
    """Squared coefficient of variation over the last dimension, (..., L) -> (...); 0 for a single value."""
    if values.shape[-1] == 1:
        return values.new_zeros(values.shape[:-1])
    return values.var(dim=-1) / (values.mean(dim=-1).square() + 1e-10)


def compute_balance_loss(attention: torch.Tensor, loads: torch.Tensor) -> torch.Tensor:
    """
    Penalty on slots that all choose the same tokens, summed over heads, (S, M, L) -> ().

    The squared coefficient of variation (CV squared) over tokens of the importance (attention summed over slots) plus
    that of the loads (AiT, section "Bottleneck attention balance loss"). Only the importance has a gradient.

    Args:
        attention (`torch.Tensor` of shape `(num_heads, num_slots, num_tokens)`): Write attention, float32.
        loads (`torch.Tensor` of shape `(num_heads, num_tokens)`): Slots that selected each token.
    """
    importance = attention.sum(dim=1)  # (num_heads, num_tokens)
    return (compute_cv_squared(importance) + compute_cv_squared(loads)).sum()


def average_memory(memory: torch.Tensor, written: torch.Tensor, update_rate: float) -> torch.Tensor:
    """Move the memory towards what was written, with unit rows, (M, D) -> (M, D); a row of zeros stays zero."""
    return nn.functional.normalize((1 - update_rate) * memory + update_rate * written, dim=-1)


class AiTFloat32LayerNorm(nn.LayerNorm):
    """A LayerNorm in float32 whatever the dtype of its weights, which it reads itself, as offloading needs it."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(hidden_states.float(), self.normalized_shape, weight, bias, self.eps)


class AiTMemoryWrite(nn.Module):
    """Write the batch's tokens into the memory through bottleneck attention: returns a new memory, changes nothing."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.num_heads = config.num_memory_heads
        self.head_dim = config.memory_slot_size
        self.bottleneck_size = config.bottleneck_size
        self.update_rate = config.memory_update_rate
        self.differentiable = config.differentiable_write

        inner_size = self.num_heads * self.head_dim
        self.query_proj = nn.Linear(config.memory_slot_size, inner_size, bias=False)
        self.key_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.value_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.output_proj = nn.Linear(inner_size, config.memory_slot_size, bias=False)
        self.layernorm = AiTFloat32LayerNorm(config.memory_slot_size, eps=1e-6)
        self.dropout = nn.Dropout(config.memory_dropout_prob)

    def forward(self, memory: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Compute the memory after the tokens of all samples have competed for it, (M, D), (B, N, E) -> (M, D).

        Args:
            memory (`torch.Tensor` of shape `(num_memory_slots, memory_slot_size)`): The memory before, float32.
            tokens (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`): The MLP's normed output.

        Returns:
            The new memory, float32 with unit rows; the balance loss, a float32 scalar;
            the write attention `(num_memory_heads, num_memory_slots, batch_size, num_tokens)`.
        """
        batch_size, num_tokens, hidden_size = tokens.shape
        tokens = tokens.reshape(-1, hidden_size)  # (batch_size * num_tokens, hidden_size)
        query, key, value = (
            projection.unflatten(-1, (self.num_heads, self.head_dim)).transpose(0, 1).float()
            for projection in (
                self.query_proj(memory.to(tokens.dtype)),
                self.key_proj(tokens),
                self.value_proj(tokens),
            )
        )  # (num_heads, num_slots or batch_size * num_tokens, head_dim)

        # A moving average of rounded values drifts, and close logits would swap places in the selection:
        # everything between the projections is float32, whatever the model and autocast use.
        with maybe_autocast(device_type=memory.device.type, enabled=False):
            attended, attention, loads = attend_through_bottleneck(query, key, value, self.bottleneck_size)
            balance_loss = compute_balance_loss(attention, loads)
        attended = attended.transpose(0, 1).flatten(1)  # (num_slots, num_heads * head_dim)
        written = self.dropout(self.output_proj(attended.to(tokens.dtype)).float())
        with maybe_autocast(device_type=memory.device.type, enabled=False):
            # deviation: residual and dropout, as in the official code; the paper has LN(Concat W_O) alone.
            written = self.layernorm(memory + written)
            new_memory = average_memory(memory, written, self.update_rate)  # (num_slots, slot_size)
        if not self.differentiable:
            # deviation: with `differentiable_write=False` the write is detached, as in the official code.
            new_memory = new_memory.detach()
        return new_memory, balance_loss, attention.unflatten(-1, (batch_size, num_tokens))


class AiTMemoryRetrieval(nn.Module):
    """Hopfield retrieval of the tokens from the memory, one head. Returns what was retrieved; changes nothing."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.beta = config.hopfield_beta
        self.num_steps = config.num_retrieval_steps
        self.pattern_proj = nn.Linear(config.memory_slot_size, config.hidden_size)

    def forward(
        self, memory: torch.Tensor, tokens: torch.Tensor, output_energies: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Retrieve from the memory, (M, D), (B, N, E) -> (B, N, E). Each token is on its own.

        Args:
            memory (`torch.Tensor` of shape `(num_memory_slots, memory_slot_size)`): The memory, float32.
            tokens (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`): The states that retrieve.
            output_energies (`bool`, *optional*, defaults to `False`): Whether to compute the energies.

        Returns:
            The retrieved tokens `(batch_size, num_tokens, hidden_size)`; the retrieval attention
            `(batch_size, num_tokens, num_memory_slots)`; the energies before and after, `(2, batch_size, num_tokens)`,
            or `None`.
        """
        patterns = self.pattern_proj(memory.to(tokens.dtype))  # (num_slots, hidden_size)
        retrieved, attention = retrieve_patterns(tokens, patterns, self.beta, self.num_steps)
        energies = None
        if output_energies:
            with maybe_autocast(device_type=memory.device.type, enabled=False):
                energies = torch.stack([compute_energy(states, patterns, self.beta) for states in (tokens, retrieved)])
        return retrieved, attention, energies


class AiTWorkspace(nn.Module):
    """The global workspace of one layer: the write and the retrieval, around a memory which neither of them owns."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.write = AiTMemoryWrite(config)
        self.retrieve = AiTMemoryRetrieval(config)

    def forward(
        self, memory: torch.Tensor, tokens: torch.Tensor, update_memory: bool = False, output_energies: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Write the tokens into the memory, if asked to, and retrieve them from it; changes nothing.

        Args:
            memory (`torch.Tensor` of shape `(num_memory_slots, memory_slot_size)`): The memory before, float32.
            tokens (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`): The MLP's normed output.
            update_memory (`bool`, *optional*, defaults to `False`): Whether to write before retrieving.
            output_energies (`bool`, *optional*, defaults to `False`): Whether the retrieval computes its energies.

        Returns:
            The retrieved tokens `(batch_size, num_tokens, hidden_size)`; the memory that they were retrieved from,
            new if it was written; the balance loss, a float32 scalar, or `None` if nothing was written.
        """
        balance_loss = None
        if update_memory:
            memory, balance_loss, _ = self.write(memory, tokens)
        retrieved, _, _ = self.retrieve(memory, tokens, output_energies=output_energies)
        return retrieved, memory, balance_loss
