"""
The exchange between the processes of a data-parallel training, whose tokens compete in one workspace.

Every process calls the same functions in the same order, as in any collective communication. What it hands over does
not grow with its batch: the logits that can still win, and sums over its tokens, never the tokens.
"""

from typing import Any

import torch
from torch import distributed, nn


def count_processes() -> int:
    """Count the processes that train together; 1 where there is no process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def get_processes() -> Any:
    """Return the group of all processes."""
    return distributed.group.WORLD


def is_first_process() -> bool:
    """Whether this is the process of rank 0."""
    return distributed.get_rank() == 0


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of all processes' tensors of one shape, without gradients."""
    # Not the collectives of `torch.distributed`, which work in place and would break a compiled graph.
    from torch.distributed import _functional_collectives as collectives

    return collectives.wait_tensor(collectives.all_reduce(tensor.contiguous(), "sum", get_processes()))


class SumOverProcesses(torch.autograd.Function):
    """
    The sum of all processes' tensors of one shape, for each of them.

    What every process does with the sum counts, so the gradients are summed too. Averaged over the processes, as
    data-parallel training does, they are those of one process with the whole batch.
    """

    @staticmethod
    def forward(tensor: torch.Tensor):
        return add_up(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad_output):
        return add_up(grad_output)


def sum_over_processes(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sum float32 tensors over the processes, with gradients, in one exchange for all of them."""
    total = SumOverProcesses.apply(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = total.split([tensor.numel() for tensor in tensors])
    return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors))


@torch.no_grad()
def average_over_processes(memories: list[torch.Tensor]) -> list[torch.Tensor]:
    """Average each memory over the processes, with unit rows again, (M, D) each; a row of zeros stays zero."""
    return [nn.functional.normalize(memory, dim=-1) for memory in sum_over_processes(*memories)]


def find_winners(kept_logits: torch.Tensor, bottleneck_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find which of this process's best logits are among the best of all processes, (R, K) -> (R, K), (R, 1).

    Of equal logits those of the first process win, in the order given, so that all processes agree. Where there is a
    NaN, it is the row's largest, and all that is made of the row becomes NaN on every process.

    Args:
        kept_logits (`torch.Tensor` of shape `(num_rows, num_kept)`):
            The largest logits of each row here: `bottleneck_size` of them, or all if there are fewer.
        bottleneck_size (`int`, *optional*): Logits that a row keeps in all; `None` keeps every one.

    Returns:
        Which logits win; the largest logit of each row anywhere.
    """
    from torch.distributed import _functional_collectives as collectives

    logits = kept_logits.detach()
    if bottleneck_size is None:
        offered = logits.max(dim=-1, keepdim=True).values
    else:
        # Of one width, since processes may have batches of different sizes.
        offered = nn.functional.pad(logits, (0, bottleneck_size - logits.shape[-1]), value=-torch.inf)
    # Newer versions of torch have renamed it.
    gather = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor
    gathered = gather(offered.contiguous(), 0, get_processes())
    gathered = collectives.wait_tensor(gathered).unflatten(0, (-1, len(logits))).transpose(0, 1)  # (R, processes, K)
    largest = gathered.flatten(1).max(dim=-1, keepdim=True).values
    if bottleneck_size is None:
        return torch.ones_like(logits, dtype=torch.bool), largest
    ranked = gathered.flatten(1)
    weakest = ranked.topk(bottleneck_size, dim=-1).values[:, -1:]
    is_equal = ranked == weakest
    num_left = bottleneck_size - (ranked > weakest).sum(dim=-1, keepdim=True)
    is_winner = (ranked > weakest) | (is_equal & (is_equal.cumsum(dim=-1, dtype=torch.int32) <= num_left))
    own = is_winner.view_as(gathered)[:, distributed.get_rank(), : logits.shape[-1]]
    return own, largest
