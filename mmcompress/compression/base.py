"""The contract that every compression method fulfils."""

import fnmatch
import functools
import inspect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import UNITS, Backbone, Target
from mmcompress.compression.statistics import Statistic

log = logging.getLogger(__name__)

Decision = dict[str, Any]
"""JSON; what a method does to one weight."""

LEFT_DENSE = "left_dense"
"""Key of a decision that leaves the weight alone; its value is the reason, in words."""

SELECTORS = ("modality", "role", "granularity")

EXCEPT = "!"
"""Before a selector's pattern: all except what it matches."""

Stage = Literal["structure", "mask", "values"]
STAGES: tuple[Stage, ...] = ("structure", "mask", "values")


@functools.cache
def tell_smallest(setting: str, least: str) -> None:
    """Say, once, that a setting asks for less than the least there is.

    Args:
        setting: with its value, `rank_ratio=0.001`.
        least: what is kept in its place.
    """
    log.warning("%s is less than can be kept of some layers: %s is kept there", setting, least)


class NothingCompressed(ValueError):
    """A step would leave everything as it is."""


class Parametrization(nn.Module):
    """What a `mask` or `values` method puts on a weight: `forward(weight)` gives the new weight.

    Attributes:
        initial: the weight to start from in place of the present one, for methods that move
            weights to make up for their own error (GPTQ, SparseGPT); the recipe takes it over.
    """

    initial: Tensor | None = None


@dataclass
class Applied:
    """A parametrisation in its place.

    Attributes:
        module: owner of the weight.
        parameter: the weight's name in it.
        parametrization: what this method has registered there.
    """

    module: nn.Module
    parameter: str
    parametrization: nn.Module

    @property
    def original(self) -> nn.Parameter:
        """The trainable weight, before any parametrisation."""
        return self.module.parametrizations[self.parameter].original  # type: ignore[union-attr,index]


class Compressor(ABC):
    """One method: it plans over all selected weights, then is applied to each.

    A `structure` method swaps modules in `apply`; what it leaves are ordinary modules. A `mask` or
    `values` method parametrises the weight while training and says in `finalize` how to store it.

    A method works on weights, or on whole modules (`attention`, `mlp`, `block`, `stack`, `model`);
    then `weights` and `statistics` hold what lies inside the selected modules.

    Args:
        modality: towers to compress, such as `image` or `[image, text]`; null for all.
        role: shell patterns of roles, such as `mlp.*`; `!embed` spares `embed`; null for all.
        granularity: kinds of module, such as `linear`; null for all that the method can handle.
    """

    stage: ClassVar[Stage]
    granularities: ClassVar[tuple[str, ...]]
    """The kinds of weight, or the kinds of module, that the method can handle."""

    skipped_roles: ClassVar[tuple[str, ...]] = ("position",)
    """Roles that are compressed only when `role` names them: too small to be worth their risk."""

    trains_weight: ClassVar[bool] = True
    """False when parameters of the parametrisation are trained in the weight's stead."""

    learns_mask: ClassVar[bool] = False
    """Whether a `mask` method is trained by the gradient that reaches the weight."""

    keeps_zeros: bool = True
    """Whether a `values` method leaves zeros of an earlier mask zero."""

    needs: frozenset[str] = frozenset()
    """Which calibration statistics `plan` and `apply` want; see `statistics.collect`."""

    settles: ClassVar[bool] = False
    """Whether `settle` has something to do, for which a dense copy is kept."""

    edit: ClassVar[tuple[str, int] | None] = None
    """Name and version, in `modules.edits`, of what a `structure` method does, or `cut`."""

    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Constructor arguments that a byte budget may vary, and the values it tries."""

    no_speedup: ClassVar[str | None]
    """Why the compressed model cannot run faster in PyTorch; None when it can."""

    def __init__(
        self,
        *,
        modality: str | Sequence[str] | None = None,
        role: str | Sequence[str] | None = None,
        granularity: str | Sequence[str] | None = None,
    ) -> None:
        self.modality = _as_list(modality)
        self.role = _as_list(role)
        self.granularity = _as_list(granularity)

    @property
    def cuts(self) -> bool:
        """Whether `cut` removes something."""
        return self.stage != "structure" and self.edit is not None

    def varied(self, **changes: Any) -> Self:
        """A fresh one with some constructor arguments changed.

        Every subclass stores its arguments under their own names.
        """
        kinds = inspect.signature(type(self)).parameters.values()
        names = [p.name for p in kinds if p.kind is not inspect.Parameter.VAR_KEYWORD]
        known = {name: getattr(self, name) for name in [*names, *SELECTORS]}
        return type(self)(**known | changes)

    @classmethod
    def candidates(cls, backbone: Backbone) -> list[Target]:
        """What there is to select from, as the backbone stands now."""
        return backbone.units() if set(cls.granularities) & set(UNITS) else backbone.targets()

    def select(self, targets: Sequence[Target]) -> list[Target]:
        """The targets that the selectors pick.

        Raises:
            ValueError: a selector matches nothing, or nothing passes all of them.
        """
        for field, patterns in self._selectors().items():
            for pattern in patterns:
                named = pattern.removeprefix(EXCEPT)
                if not any(fnmatch.fnmatch(getattr(t, field), named) for t in targets):
                    present = ", ".join(sorted({getattr(t, field) for t in targets}))
                    raise ValueError(
                        f"{field}={pattern!r} matched 0 of {len(targets)} targets; "
                        f"values of {field} here: {present}"
                    )
        chosen = [t for t in targets if self._wants(t)]
        if not chosen:
            selectors = ", ".join(f"{k}={v}" for k, v in self._selectors().items())
            kinds = f"{type(self).__name__} handles {', '.join(self.granularities)} targets"
            if not selectors:
                raise ValueError(f"{kinds} and this model has none: choose another recipe")
            raise ValueError(
                f"{kinds} and none of the {len(targets)} passes {selectors}: widen the selectors"
            )
        return chosen

    def _selectors(self) -> dict[str, list[str]]:
        given = {field: getattr(self, field) for field in SELECTORS}
        return {field: patterns for field, patterns in given.items() if patterns is not None}

    def _wants(self, target: Target) -> bool:
        if target.granularity not in self.granularities:
            return False
        named = any(not pattern.startswith(EXCEPT) for pattern in self.role or [])
        if not named and target.role in self.skipped_roles:
            return False
        return all(
            _passes(getattr(target, field), patterns)
            for field, patterns in self._selectors().items()
        )

    def check(self, target: Target, weight: Tensor) -> None:
        """Refuse a weight that the configuration cannot fit, before any work is done.

        Not called for whole modules.

        Raises:
            ValueError: names the setting and the fix.
        """

    def check_module(self, target: Target, backbone: Backbone) -> None:
        """`check` for a whole module, with all that surrounds it.

        Raises:
            ValueError: names what is in the way and the fix.
        """

    @abstractmethod
    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        """Decide for all selected weights at once.

        Args:
            targets: what `select` picked.
            weights: by target name; the values that earlier steps of the recipe produce.
            statistics: by target name; empty unless the method `needs` some.
        Returns:
            One decision per target: JSON that `apply` understands, or `{"left_dense": reason}`.
        """

    def in_turns(self, targets: Sequence[Target]) -> list[list[Target]]:
        """The targets in the turns in which they are compressed.

        Statistics are collected anew before each turn but the first, so that later layers see what
        earlier ones have become; `plan` has seen those of the dense model.
        """
        return [list(targets)]

    @classmethod
    def statistic_for(cls, target: Target, statistics: Mapping[str, Statistic]) -> Statistic | None:
        """What `apply` gets: that of the weight; for a module, whichever of its weights' it wants.

        Args:
            target: what is about to be compressed.
            statistics: by target name.
        """
        return statistics.get(target.name)

    @classmethod
    @abstractmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        """Carry out one decision; depends on nothing but the arguments.

        Args:
            module: owner of the weight.
            parameter: the weight's name in it.
            decision: from `plan`, perhaps read back from JSON.
            statistic: without it the result has the right shapes but untrained factors, for
                weights that will be loaded afterwards.
        Returns:
            The module to put in its place (`structure`), or the parametrisation to register on
            the weight (`mask`, `values`).
        """

    def join(self, applied: Mapping[str, Applied]) -> None:
        """Once every target of the step has its parametrisation: let them share tensors.

        Args:
            applied: by target name. Called in `Recipe.apply` and in `Recipe.restore`.
        """

    def settle(
        self, backbone: Backbone, dense: Backbone, batches: Sequence[dict[str, Tensor]]
    ) -> None:
        """Once all steps are applied, and before training: make up for what they did.

        Args:
            backbone: compressed, edited in place.
            dense: as it was before the first step.
            batches: calibration data.
        """

    def cut(
        self,
        backbone: Backbone,
        applied: Mapping[str, Applied],
        encodings: dict[str, Encoding],
    ) -> dict[str, Decision]:
        """Once all weights are baked: remove what training has emptied.

        Args:
            backbone: baked, edited in place.
            applied: what the step had put on it, by target name.
            encodings: by target name; those of weights that are cut must be cut too.
        Returns:
            By module path: what the edit has to do to a dense skeleton to get the same shapes.
        """
        return {}

    def on_step(self, applied: Mapping[str, Applied], progress: float) -> None:
        """Follow a schedule.

        Args:
            applied: by target name.
            progress: share of training that is done, in [0, 1].
        """

    def penalty(self, applied: Mapping[str, Applied]) -> Tensor | float:
        """Regulariser that is added to the loss."""
        return 0.0

    def finalize(self, parametrization: nn.Module, weight: Tensor) -> Encoding:
        """How to store a weight (not for `structure`).

        Args:
            parametrization: what `apply` gave.
            weight: the baked weight, after all parametrisations.
        """
        raise TypeError(f"{type(self).__name__} leaves nothing to store but its modules' weights")


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as (rows, columns): dimension 0 is kept, the others are flattened."""
    return weight.reshape(len(weight), -1)


def unit_of(weights: Iterable[Tensor]) -> float:
    """The power of two that the largest magnitude is at least, and less than twice; 1 of zeros.

    Divided by it, which is exact, weights have squares that neither overflow nor vanish.

    Example:
        >>> import torch
        >>> unit_of([torch.tensor([0.3, -0.1]), torch.zeros(1)])
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


def _passes(value: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names the value, or all are exceptions, and no exception names it."""
    wanted = [pattern for pattern in patterns if not pattern.startswith(EXCEPT)]
    spared = [pattern[len(EXCEPT) :] for pattern in patterns if pattern.startswith(EXCEPT)]
    return any(fnmatch.fnmatch(value, pattern) for pattern in wanted or ["*"]) and not any(
        fnmatch.fnmatch(value, pattern) for pattern in spared
    )


def _as_list(value: str | Sequence[str] | None) -> list[str] | None:
    return [value] if isinstance(value, str) else None if value is None else list(value)
