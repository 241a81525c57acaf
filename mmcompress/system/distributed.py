"""What the processes of one run tell each other; `start` brings them up.

All of them do the same, with the same random numbers, but for what `in_order` and `gather` split.
What a decision hangs on comes from the first (`broadcast`), which stores and scores the result.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor

from mmcompress.system.progress import progress

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Of the environment, in Lightning's order."""

T = TypeVar("T")
R = TypeVar("R")


def size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def broadcast(value: T) -> T:
    """The first process's value, in every process."""
    return _sent(value, source=0)


def is_first_process() -> bool:
    """Whether this process is the first of its run, also before they know each other.

    Lightning says so once it is there, and before that the variables that it reads itself.
    """
    known = getattr(rank_zero_only, "rank", None)
    if known is None:
        known = next((int(os.environ[key]) for key in RANK_VARIABLES if key in os.environ), 0)
    return known == 0


def on_first(work: Callable[[], object]) -> None:
    """Let the first process alone do something, and the others wait until it has.

    What then fails in one of them is heard by the first, which otherwise works on and is killed.
    """
    if rank() == 0:
        work()
    broadcast(None)


def all_gather(value: T) -> list[T]:
    """Every process's value, in the order of the processes."""
    values: list[Any] = [value] * size()
    if size() > 1:
        with _connected():
            dist.all_gather_object(values, value)
    return values


def in_order(
    items: Sequence[T],
    work: Callable[[T, Callable[[R], None]], None],
    take: Callable[[R], None],
    *,
    description: str,
) -> None:
    """Spread work over the processes; each takes all results, in the order of one process alone.

    Sums of floats depend on their order. So that they come out equal bit for bit, results travel
    before they are summed: of every `size()` items a process works on one, holds what it gives, and
    then all processes take the results item by item.

    Args:
        items: the same in every process.
        work: called as `work(item, give)`; calls `give` with each result, tensors on the CPU.
        take: gets each result, in every process.
        description: for the progress bar.
    """
    if size() == 1:
        for item in progress(items, description):
            work(item, take)
        return
    for start in progress(range(0, len(items), size()), description):
        given: list[R] = []
        if start + rank() < len(items):
            work(items[start + rank()], given.append)
        for source, count in enumerate(all_gather(len(given))):
            for index in range(count):
                take(_sent(given[index] if source == rank() else None, source))  # type: ignore[arg-type]


def gather(rows: Tensor) -> list[Tensor]:
    """Rows (B, …) of every process, B perhaps different in each, with their gradients.

    Every process is taken to compute the same loss from all rows, whose gradient the optimizer gets
    as the mean over processes (DDP). So the gradients that reach a row are summed over processes:
    in the end each weight gets the gradient that one process with all rows would compute.
    """
    if size() == 1:
        return [rows]
    counts = [rows.new_zeros(1, dtype=torch.int64) for _ in range(size())]
    with _connected():
        dist.all_gather(counts, counts[0].new_tensor([len(rows)]))
    sizes = torch.cat(counts).tolist()
    padding = [0, 0] * (rows.ndim - 1) + [0, max(sizes) - len(rows)]
    parts = _Gather.apply(F.pad(rows, padding))
    return [part[:count] for part, count in zip(parts, sizes, strict=True)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(rows) for _ in range(size())]
        with _connected():
            dist.all_gather(parts, rows.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = torch.stack(gradients)
        with _connected():
            dist.all_reduce(total)
        return total[rank()]


def mean(values: Tensor) -> Tensor:
    """Over the processes, for tensors of one shape; without gradient."""
    if size() == 1:
        return values
    total = values.detach().clone()
    with _connected():
        dist.all_reduce(total)
    return total / size()


def _sent(value: T, source: int) -> T:
    values = [value]
    if size() > 1:
        with _connected():
            dist.broadcast_object_list(values, source)
    return values[0]


@contextmanager
def _connected() -> Iterator[None]:
    """Turn the collectives' RuntimeError, they have no narrower one, into what it means."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this run has ended or does not answer; what it printed says why "
            f"({' '.join(str(error).split())})"
        ) from error
