"""Several processes that work on one run: how they start, and what they tell each other.

All of them do the same, with the same random numbers, but for what `in_order` and `gather` split.
What a decision hangs on comes from the first (`from_first`), which stores and scores the result.
"""

import atexit
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.seed import isolate_rng
from rich.progress import track
from torch import Tensor

from mmcompress.sharding import FullySharded

T = TypeVar("T")
R = TypeVar("R")


def start_processes(trainer: pl.Trainer) -> None:
    """Bring up all processes of a run now, for calibration, and not when the trainer fits.

    Where nobody else has done so, the command line is run again for each of them. Random numbers go
    on as if nothing had happened.

    Raises:
        ValueError: a strategy that cannot work here, or a sweep that would be started again.
    """
    if trainer.world_size == 1:
        return
    strategy = trainer.strategy
    launcher = strategy.launcher
    # Processes that are spawned or forked run one function, and get the model pickled.
    if type(strategy) not in (DDPStrategy, FullySharded) or not isinstance(
        launcher, _SubprocessScriptLauncher | None
    ):
        raise ValueError(
            f"{type(strategy).__name__} cannot work on a model that is being compressed: choose "
            "trainer=ddp or trainer=fsdp"
        )
    if launcher is not None and not launcher.cluster_environment.creates_processes_externally:
        _check_no_sweep()
        atexit.register(launcher.kill, signal.SIGTERM)  # none outlives the first
    with isolate_rng():
        if launcher is None:
            strategy.setup_environment()
        else:
            launcher.launch(strategy.setup_environment)


def _check_no_sweep() -> None:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            "several processes per run cannot be started inside a sweep, for each would start the "
            "whole sweep again: run the jobs one by one without -m, or set trainer.devices=1, or "
            "let Slurm start one task per process (hydra/launcher=slurm)"
        )


def size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def from_first(value: T) -> T:
    """The first process's value, in every process."""
    return _sent(value, source=0)


def from_all(value: T) -> list[T]:
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
        for item in track(items, description=description, transient=True):
            work(item, take)
        return
    for start in track(range(0, len(items), size()), description=description, transient=True):
        given: list[R] = []
        if start + rank() < len(items):
            work(items[start + rank()], given.append)
        for source, count in enumerate(from_all(len(given))):
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
