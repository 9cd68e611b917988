"""The global workspace of AiT: the bottleneck write into the memory with its balance loss, and the retrieval."""

import numpy as np
import torch
from torch import nn
from transformers.utils import is_tracing
from transformers.utils.generic import maybe_autocast

from .configuration_ait import AiTConfig
from .distributed_ait import find_winners, is_first_process, sum_over_processes
from .hopfield_ait import compute_energy, retrieve_patterns
from .memory_ait import pack_memory, unpack_memory


def partition_rows(logits: np.ndarray, num_kept: int) -> np.ndarray:
    """Find the places of each row's largest values, (R, L) -> (R, K); of equal ones the first are kept."""
    kept = np.argpartition(logits, -num_kept, axis=-1)[:, -num_kept:]
    weakest = np.take_along_axis(logits, kept[:, :1], axis=-1)
    # Counted at once, because ties are as rare as images that come twice.
    if np.count_nonzero(logits >= weakest) > kept.size:
        for row in np.flatnonzero(~np.isnan(weakest)):
            larger = np.flatnonzero(~(logits[row] <= weakest[row]))
            equal = np.flatnonzero(logits[row] == weakest[row])
            kept[row] = np.concatenate([larger, equal[: num_kept - len(larger)]])
    return kept


def select_tokens(queries: torch.Tensor, tokens: torch.Tensor, num_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Each query's largest logits and the places of their tokens, in no order, (R, E), (L, E) -> (R, K) twice.

    NaN counts as larger than any number. Of equal logits NumPy's path keeps the first; the other one does not say.
    """
    # NumPy partitions five times as fast as `topk` on one thread, but on one thread only. The logits of a few rows
    # stay in the processor's cache.
    if not is_tracing(tokens) and tokens.device.type == "cpu" and torch.get_num_threads() <= 4:
        selections = []
        for rows in queries.split(32):
            logits = torch.matmul(rows, tokens.T)
            kept = torch.from_numpy(partition_rows(logits.detach().numpy(), num_kept))
            selections.append((logits.gather(-1, kept), kept))
        kept_logits, kept_tokens = (torch.cat(parts) for parts in zip(*selections))
    else:
        kept_logits, kept_tokens = torch.matmul(queries, tokens.T).topk(num_kept, dim=-1, sorted=False)
    return kept_logits, kept_tokens


def sort_entries(kept_tokens: torch.Tensor, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the places of selected tokens, (N,), and tell where each stood, (N,); equal places keep their order."""
    # From 32,768 entries on PyTorch counts them, below that it compares; NumPy counts numbers of 16 bits.
    is_counted = len(kept_tokens) >= 2**15 or num_tokens > 2**16
    if is_counted or is_tracing(kept_tokens) or kept_tokens.device.type != "cpu":
        sorted_tokens, order = kept_tokens.int().sort(stable=True)
    else:
        order = torch.from_numpy(np.argsort(kept_tokens.numpy().astype(np.uint16), kind="stable"))
        sorted_tokens = kept_tokens[order]
    return sorted_tokens, order


def compete(
    queries: torch.Tensor, tokens: torch.Tensor, bottleneck_size: int | None, synchronize: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Each query's attention to the tokens that it keeps, their logits and their places, (R, E), (L, E) -> (R, K) thrice.

    With `synchronize`, the tokens of all processes compete. Then a logit is less the row's largest one anywhere, it is
    minus infinity and gets no attention if it lost, and the softmax is over those of this process which did not.
    """
    num_kept = len(tokens) if bottleneck_size is None else min(bottleneck_size, len(tokens))
    kept_logits, kept_tokens = select_tokens(queries, tokens, num_kept)
    if not synchronize:
        return nn.functional.softmax(kept_logits, dim=-1), kept_logits, kept_tokens
    # Of equal logits the first are to win.
    kept_tokens, order = kept_tokens.sort(dim=-1)
    kept_logits = kept_logits.gather(-1, order)
    is_winner, largest = find_winners(kept_logits, bottleneck_size)
    # A finite difference tells a winner, however far it lies behind, from what has lost.
    kept_logits = (kept_logits - largest).clamp(min=torch.finfo(kept_logits.dtype).min)
    kept_logits = kept_logits.masked_fill(~is_winner, -torch.inf)
    # A row that has lost everywhere here would be one of NaN, with gradients of NaN.
    has_lost = ~is_winner.any(dim=-1, keepdim=True)
    attention = nn.functional.softmax(kept_logits.masked_fill(has_lost, 0.0), dim=-1).masked_fill(has_lost, 0.0)
    return attention, kept_logits, kept_tokens


class BottleneckAttention(torch.autograd.Function):
    """
    Softmax attention over each row's largest logits whose cost, beyond the logits, is that of what was selected.

    (R, E), (L, E) -> (R, E), (R, K), (R, K), (R, K): the attended tokens and what `compete` returns. What is kept for
    the backward pass grows with R x K, not with R x L; the gradients reach the selected entries alone.
    """

    @staticmethod
    def forward(queries: torch.Tensor, tokens: torch.Tensor, bottleneck_size: int, synchronize: bool):
        attention, kept_logits, kept_tokens = compete(queries, tokens, bottleneck_size, synchronize)
        attended = nn.functional.embedding_bag(kept_tokens, tokens, mode="sum", per_sample_weights=attention)
        return attended, attention, kept_logits, kept_tokens

    @staticmethod
    def setup_context(ctx, inputs, output):
        queries, tokens, *_ = inputs
        _, attention, _, kept_tokens = output
        ctx.mark_non_differentiable(kept_tokens)
        ctx.save_for_backward(queries, tokens, attention, kept_tokens)

    @staticmethod
    def backward(ctx, grad_attended, grad_attention, grad_kept_logits, _):
        queries, tokens, attention, kept_tokens = ctx.saved_tensors
        num_rows, num_kept = kept_tokens.shape
        # The dot products of each row's gradient with the tokens that it selected.
        if 6 * num_kept > len(tokens):
            # Measured: those with all tokens are faster where a sixth of them or more is kept.
            grad_logits = torch.matmul(grad_attended, tokens.T).gather(-1, kept_tokens)
        else:
            rows = torch.arange(num_rows, device=tokens.device)
            grad_logits = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                *(grad_attended.contiguous(), tokens, kept_tokens.flatten(), rows * num_kept),
                rows.repeat_interleave(num_kept),
                mode=0,
            ).view_as(attention)
        grad_logits = attention * (grad_logits + grad_attention)
        grad_logits -= attention * grad_logits.sum(dim=-1, keepdim=True)
        grad_logits += grad_kept_logits
        grad_queries = nn.functional.embedding_bag(kept_tokens, tokens, mode="sum", per_sample_weights=grad_logits)

        # Each selected entry brings its token two shares: of its row's gradient, by the attention, and of its row's
        # query, by the gradient of the logit. Sorted by token, the entries are bags too.
        sorted_tokens, order = sort_entries(kept_tokens.flatten(), len(tokens))
        starts = torch.arange(len(tokens), device=tokens.device, dtype=sorted_tokens.dtype)
        starts = torch.searchsorted(sorted_tokens, starts)
        grad_tokens, grad_of_logits = (
            nn.functional.embedding_bag(
                order // num_kept, shared, starts, mode="sum", per_sample_weights=weights.flatten()[order]
            )
            for shared, weights in ((grad_attended, attention), (queries, grad_logits))
        )
        grad_tokens += grad_of_logits
        return grad_queries, grad_tokens, None, None


def attend_through_bottleneck(
    queries: torch.Tensor, tokens: torch.Tensor, bottleneck_size: int | None, synchronize: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Let every slot attend to the tokens that fit it best, (S, M, E), (L, E) -> (S, M, E).

    All L tokens of the batch compete here, and nowhere else in the model. The softmax runs over the `bottleneck_size`
    largest logits of each slot and head; the other tokens get exactly 0 (AiT, section "Bottleneck attention").

    Args:
        queries (`torch.Tensor` of shape `(num_heads, num_slots, hidden_size)`):
            Scaled queries folded with the key projection, float32.
        tokens (`torch.Tensor` of shape `(num_tokens, hidden_size)`): The tokens, float32.
        bottleneck_size (`int`, *optional*): Tokens that a slot keeps; `None`, or more than there are, keeps all.
        synchronize (`bool`, *optional*, defaults to `False`):
            Whether they are those of all processes, see `compete`. What is returned is this process's part.

    Returns:
        The attended tokens `(num_heads, num_slots, hidden_size)`; the attention to the K kept tokens, their logits
        and their places among all tokens, `(num_heads, num_slots, K)` each.
    """
    shape, num_tokens = queries.shape[:2], len(tokens)
    queries = queries.flatten(0, 1)  # (num_heads * num_slots, hidden_size)
    # Measured: products with mostly empty matrices are the faster form when a third of the tokens or more is kept.
    if bottleneck_size is not None and 3 * bottleneck_size < num_tokens:
        selected = BottleneckAttention.apply(queries, tokens, bottleneck_size, synchronize)
    else:
        attention, kept_logits, kept_tokens = compete(queries, tokens, bottleneck_size, synchronize)
        nothing = attention.new_zeros(len(queries), num_tokens)
        attended = torch.matmul(nothing.scatter(-1, kept_tokens, attention), tokens)
        selected = attended, attention, kept_logits, kept_tokens
    return tuple(tensor.unflatten(0, shape) for tensor in selected)


def compute_cv_squared(values: torch.Tensor) -> torch.Tensor:
    """Squared coefficient of variation over the last dimension, (..., L) -> (...); 0 for a single value."""
    if values.shape[-1] == 1:
        return values.new_zeros(values.shape[:-1])
    return values.var(dim=-1) / (values.mean(dim=-1).square() + 1e-10)


def sum_over_slots(values: torch.Tensor, kept_tokens: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Add up for each token what the slots gave to it, (S, M, K) -> (S, L)."""
    return values.new_zeros(len(values), num_tokens).scatter_add(-1, kept_tokens.flatten(1), values.flatten(1))


def compute_balance_loss(attention: torch.Tensor, kept_tokens: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    Penalty on slots that all choose the same tokens, summed over heads, (S, M, K) -> ().

    The squared coefficient of variation (CV squared) over tokens of the importance (attention summed over slots) plus
    that of the loads, the number of slots that selected a token (AiT, section "Bottleneck attention balance loss").
    Only the importance has a gradient.

    Args:
        attention (`torch.Tensor` of shape `(num_heads, num_slots, num_kept)`): Write attention, float32.
        kept_tokens (`torch.Tensor` of shape `(num_heads, num_slots, num_kept)`): The tokens that it belongs to.
        num_tokens (`int`): Number of tokens that competed.
    """
    importance = sum_over_slots(attention, kept_tokens, num_tokens)
    # Counted from the selection, not from positive weights: a kept token's weight can underflow to 0.
    loads = sum_over_slots(torch.ones_like(attention), kept_tokens, num_tokens)
    return (compute_cv_squared(importance) + compute_cv_squared(loads)).sum()


def compute_synchronized_balance_loss(
    attention: torch.Tensor,
    is_winner: torch.Tensor,
    kept_tokens: torch.Tensor,
    num_tokens: int,
    num_all_tokens: torch.Tensor,
    bottleneck_size: int | None,
) -> torch.Tensor:
    """
    The balance loss over the tokens of all processes, the same for each of them, (S, M, K) -> ().

    Args:
        attention (`torch.Tensor` of shape `(num_heads, num_slots, num_kept)`):
            This process's part of the write attention, which sums to 1 over those of all, float32.
        is_winner (`torch.Tensor` of shape `(num_heads, num_slots, num_kept)`): Which of the kept tokens have won.
        kept_tokens (`torch.Tensor` of shape `(num_heads, num_slots, num_kept)`): The tokens that both belong to.
        num_tokens (`int`): Number of tokens of this process.
        num_all_tokens (`torch.Tensor` of shape `()`): Number of tokens of all processes, float32.
        bottleneck_size (`int`, *optional*): Tokens that a slot keeps; `None` keeps all.
    """
    importance = sum_over_slots(attention, kept_tokens, num_tokens)
    loads = sum_over_slots(is_winner.to(attention), kept_tokens, num_tokens)
    # Every slot spreads an attention of 1 and selects as many tokens as it keeps, so that the means need no exchange.
    num_kept = num_all_tokens if bottleneck_size is None else num_all_tokens.clamp(max=bottleneck_size)
    means = torch.stack([torch.ones_like(num_kept), num_kept]) * attention.shape[1] / num_all_tokens
    squares = (torch.stack([importance, loads]) - means.view(2, 1, 1)).square().sum(dim=(1, 2))
    (squares,) = sum_over_processes(squares)
    # As for one process, a single token has no variation.
    return (squares / (num_all_tokens - 1).clamp(min=1) / (means.square() + 1e-10)).sum()


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
        self.hidden_size = config.hidden_size
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

    def fold_key_projection(self, memory: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Queries that tokens can be compared with as they are, without keys, (M, D) -> (S, M, E), float32."""
        query = self.query_proj(memory.to(dtype)).float()  # (num_slots, num_heads * head_dim)
        # By a call, since a weight that is quantized, adapted or offloaded cannot be read.
        key_weight = self.key_proj(torch.eye(self.hidden_size, dtype=dtype, device=memory.device)).float()
        query, key_weight = (
            projection.unflatten(-1, (self.num_heads, self.head_dim)).transpose(0, 1)
            for projection in (query, key_weight)
        )
        with maybe_autocast(device_type=memory.device.type, enabled=False):
            # Now (num_heads, num_slots, head_dim) and (num_heads, hidden_size, head_dim).
            return torch.matmul(query * self.head_dim**-0.5, key_weight.transpose(1, 2))

    def join_processes(
        self,
        values: torch.Tensor,
        attention: torch.Tensor,
        kept_logits: torch.Tensor,
        kept_tokens: torch.Tensor,
        num_tokens: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Make of what each process attended to what one process would attend to in all tokens.

        Returns:
            The values of all tokens `(num_slots, num_heads * head_dim)`; this process's part of the attention; the
            balance loss; the factors of dropout `(num_slots, head_dim)`, which are those of the first process.
        """
        if not self.differentiable:
            # In one sum with what has a gradient, the values would get one of zeros, and their projection decay.
            values = values.detach()
        weights = kept_logits.exp().sum(dim=-1)  # (num_heads, num_slots), relative to the largest logit anywhere
        dropout = self.dropout(values.new_ones(len(values), self.head_dim))
        values = values.unflatten(-1, (self.num_heads, self.head_dim)) * weights.T.unsqueeze(-1)
        values, all_weights, num_all_tokens, dropout = sum_over_processes(
            values, weights, values.new_tensor(num_tokens), dropout * is_first_process()
        )
        values = (values / all_weights.T.unsqueeze(-1)).flatten(1)
        attention = attention * (weights / all_weights).unsqueeze(-1)
        balance_loss = compute_synchronized_balance_loss(
            attention, ~kept_logits.isneginf(), kept_tokens, num_tokens, num_all_tokens, self.bottleneck_size
        )
        return values, attention, balance_loss, dropout

    def forward(
        self,
        memory: torch.Tensor,
        tokens: torch.Tensor,
        output_write_attentions: bool = False,
        synchronize: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Compute the memory after the tokens of all samples have competed for it, (M, D), (B, N, E) -> (M, D).

        Neither keys nor values of all tokens are computed: with q the query and W_k, W_v the projections,
        q (W_k x) = (q W_k) x and A (X W_v) = (A X) W_v.

        Args:
            memory (`torch.Tensor` of shape `(num_memory_slots, memory_slot_size)`): The memory before, float32.
            tokens (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`): The MLP's normed output.
            output_write_attentions (`bool`, *optional*, defaults to `False`): Whether to return the write attention.
            synchronize (`bool`, *optional*, defaults to `False`):
                Whether the samples are those of all processes, which then compute the same memory and balance loss.

        Returns:
            The new memory, float32 with unit rows; the balance loss, a float32 scalar; the write attention
            `(num_memory_heads, num_memory_slots, batch_size, num_tokens)` to the samples given here, or `None`.
        """
        batch_size, num_tokens, _ = tokens.shape
        dtype = tokens.dtype
        queries = self.fold_key_projection(memory, dtype)  # (num_heads, num_slots, hidden_size)
        tokens = tokens.flatten(0, 1).float()  # (batch_size * num_tokens, hidden_size)

        # A moving average of rounded values drifts, and close logits would swap places in the selection:
        # everything between the projections is float32, whatever the model and autocast use.
        with maybe_autocast(device_type=memory.device.type, enabled=False):
            attended, attention, kept_logits, kept_tokens = attend_through_bottleneck(
                queries, tokens, self.bottleneck_size, synchronize
            )
        values = self.value_proj(attended.to(dtype)).unflatten(-1, (self.num_heads, self.head_dim))
        # Each head has its own part of the projection.
        values = values.diagonal(dim1=0, dim2=2).transpose(1, 2).flatten(1)  # (num_slots, num_heads * head_dim)
        with maybe_autocast(device_type=memory.device.type, enabled=False):
            if synchronize:
                values, attention, balance_loss, dropout = self.join_processes(
                    values.float(), attention, kept_logits, kept_tokens, len(tokens)
                )
            else:
                balance_loss = compute_balance_loss(attention, kept_tokens, len(tokens))
        written = self.output_proj(values.to(dtype)).float()
        written = written * dropout if synchronize else self.dropout(written)
        with maybe_autocast(device_type=memory.device.type, enabled=False):
            # deviation: residual and dropout, as in the official code; the paper has LN(Concat W_O) alone.
            written = self.layernorm(memory + written)
            new_memory = average_memory(memory, written, self.update_rate)  # (num_slots, slot_size)
        if not self.differentiable:
            # deviation: with `differentiable_write=False` the write is detached, as in the official code.
            new_memory = new_memory.detach()
        write_attention = None
        if output_write_attentions:
            write_attention = attention.new_zeros(*attention.shape[:2], len(tokens))
            write_attention = write_attention.scatter(-1, kept_tokens, attention)
            write_attention = write_attention.unflatten(-1, (batch_size, num_tokens))
        return new_memory, balance_loss, write_attention


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
        self,
        memory: torch.Tensor,
        tokens: torch.Tensor,
        update_memory: bool = False,
        output_energies: bool = False,
        output_write_attentions: bool = False,
        num_questions: int = 0,
        synchronize: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Write the tokens into the memory, if asked to, and retrieve them from it; changes nothing.

        Args:
            memory (`torch.Tensor` of shape `(num_memory_slots, memory_slot_size)`):
                The memory before, float32, or what `pack_memory` made of it; then the new one is returned so too.
            tokens (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`): The MLP's normed output.
            update_memory (`bool`, *optional*, defaults to `False`): Whether to write before retrieving.
            output_energies (`bool`, *optional*, defaults to `False`): Whether the retrieval computes its energies.
            output_write_attentions (`bool`, *optional*, defaults to `False`):
                Whether the write returns its attention; in evaluation it does without being kept, too.
            num_questions (`int`, *optional*, defaults to 0): Tokens at the end that retrieve, but are not written.
            synchronize (`bool`, *optional*, defaults to `False`): Whether the tokens of all processes are written.

        Returns:
            The retrieved tokens `(batch_size, num_tokens, hidden_size)`; the memory that they were retrieved from,
            new if it was written; the balance loss, a float32 scalar, or `None` if nothing was written.
        """
        is_packed, memory = memory.dtype == torch.int32, unpack_memory(memory)
        balance_loss = None
        # deviation: with `question_attention="independent"` the image alone is written. Questions that competed would
        # see each other through the memory.
        written_tokens = tokens[:, : tokens.shape[1] - num_questions]
        if update_memory:
            memory, balance_loss, _ = self.write(
                memory, written_tokens, output_write_attentions=output_write_attentions, synchronize=synchronize
            )
        elif output_write_attentions and not self.training:
            # The attention is recorded, the rest dropped. In training the write's dropout would draw random numbers.
            with torch.no_grad():
                self.write(memory, written_tokens, output_write_attentions=True)
        retrieved, _, _ = self.retrieve(memory, tokens, output_energies=output_energies)
        return retrieved, pack_memory(memory) if is_packed else memory, balance_loss
