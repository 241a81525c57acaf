"""The contract of what a fine-tune minimizes."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from mmcompress.backbones.base import Backbone

Gather = Callable[[Tensor], Tensor]
"""Rows of this process (B, …) → those of all processes (world · B, …), gradients included."""


def alone(rows: Tensor) -> Tensor:
    """The `Gather` of a single process."""
    return rows


def share(count: Tensor, gather: Gather) -> Tensor:
    """Factor on a mean over the items of this process.

    With it the mean over the processes, which is what the optimizer gets, is the mean over all
    items: 1 where all processes have as many.

    Args:
        count: items of this process, a scalar.
        gather: collects a tensor from all processes.
    """
    return count / gather(count[None]).float().mean()


class Loss(Protocol):
    """Constructor arguments are its config.

    Attributes:
        needs_teacher: whether a call needs the dense model.
    """

    @property
    def needs_teacher(self) -> bool:
        """Whether the dense model has to run beside the compressed one."""
        ...

    def __call__(
        self,
        student: Backbone,
        batch: Mapping[str, Tensor],
        *,
        teacher: Backbone | None = None,
        gather: Gather = alone,
    ) -> dict[str, Tensor]:
        """The weighted terms by name; the loss is their sum.

        Over several processes the gradient of a term is the mean of theirs: a term made from
        gathered rows is the same in each, another takes its `share`.

        Args:
            batch: of `PairData`, modality → inputs and what else there is.
        Raises:
            ValueError: backbone or data have not what it needs.
        """

    def outputs(self, student: Backbone, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `metrics` needs of a batch of `val`, one row per item."""

    def metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """Scores of the whole of `val`, from all rows in order."""
