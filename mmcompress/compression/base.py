"""The words that compression methods share."""

import functools
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Decision = dict[str, Any]
"""JSON; what a method does to one weight."""

LEFT_DENSE = "left_dense"
"""Key of a decision that leaves the weight alone; its value is the reason, in words."""


@functools.cache
def warn_smallest(setting: str, least: str) -> None:
    """Warn, once, that a setting asks for less than the least there is.

    Args:
        setting: with its value, `rank_ratio=0.001`.
        least: what is kept in its place.
    """
    log.warning("%s is less than can be kept of some layers: %s is kept there", setting, least)


class NothingCompressed(ValueError):
    """A step would leave everything as it is."""


class Parametrization(nn.Module):
    """What a `MaskStep` or `ValueStep` puts on a weight: `forward(weight)` gives the new weight.

    Attributes:
        initial: the weight to start from in place of the present one, for methods that move
            weights to make up for their own error (GPTQ, SparseGPT); the recipe takes it over.
    """

    initial: Tensor | None = None


P = TypeVar("P", bound=nn.Module)
"""The parametrization that a method puts on a weight."""


@dataclass
class Applied(Generic[P]):
    """A parametrization in its place.

    Attributes:
        module: owner of the weight.
        parameter: the weight's name in it.
        parametrization: what this method has registered there.
    """

    module: nn.Module
    parameter: str
    parametrization: P

    @property
    def original(self) -> nn.Parameter:
        """The trainable weight, before any parametrization."""
        return self.module.parametrizations[self.parameter].original  # type: ignore[union-attr,index]


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as (rows, columns): dimension 0 is kept, the others are flattened."""
    return weight.reshape(len(weight), -1)


def power_of_two_below(weights: Iterable[Tensor]) -> float:
    """The power of two that the largest magnitude is at least, and less than twice; 1 of zeros.

    Divided by it, which is exact, weights have squares that neither overflow nor vanish.

    Example:
        >>> import torch
        >>> power_of_two_below([torch.tensor([0.3, -0.1]), torch.zeros(1)])
        0.25
    """
    largest = max(float(weight.abs().max()) for weight in weights)
    return 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0


def kept_mask(weight: Tensor) -> Tensor:
    """True where a weight is not zero: what an earlier mask has left."""
    return torch.ne(weight, 0)


def keep_zeros(values: Tensor, weight: Tensor) -> Tensor:
    """`values`, zero where `weight` is zero; fast enough for every training step.

    Args:
        values, weight: of one shape; `weight` gets no gradient.
    """
    return values * weight.detach().sign().abs()
