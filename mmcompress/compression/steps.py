"""The three kinds of step, and what a step may be able to do besides.

| kind | what it does to a model |
|---|---|
| `StructureStep` | swaps modules for ordinary ones, which later steps may target |
| `MaskStep` | multiplies weights with a mask while training; zeros are left when it is baked |
| `ValueStep` | gives weights other values while training; codes are stored when it is baked |

What only some steps can do is a class of its own, beside the kind: `FollowsSchedule`,
`AddsPenalty`, `SharesTensors`, `Compensates`, `CutsWhenBaked`, `InTurns`.
"""

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self

from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import UNITS, Backbone, Target
from mmcompress.compression.base import Applied, Decision, P
from mmcompress.compression.selectors import EXCEPT, SELECTORS, Patterns
from mmcompress.compression.statistics import Statistic
from mmcompress.config.validation import parameters_of


class Step(ABC):
    """One method: it plans over all selected weights, then is applied to each.

    It works on weights, or on whole modules (`attention`, `mlp`, `block`, `stack`, `model`); then
    `weights` and `statistics` hold what lies inside the selected modules.

    Args:
        modality: towers to compress, such as `image` or `[image, text]`; null for all.
        part: parts of the model, such as `projector` or `[vision_tower, head]`; null for all.
        role: shell patterns of roles, such as `mlp.*`; `!embed` spares `embed`; null for all.
        granularity: kinds of module, such as `linear`; null for all that the method can handle.
    """

    stage: ClassVar[str]
    """What errors call the kind."""

    granularities: ClassVar[tuple[str, ...]]
    """The kinds of weight, or the kinds of module, that the method can handle."""

    skipped_roles: ClassVar[tuple[str, ...]] = ("position",)
    """Roles that are compressed only when `role` names them: too small to be worth their risk."""

    needs: frozenset[str] = frozenset()
    """Which calibration statistics `plan` and `apply` want; see `calibration.collect`."""

    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Constructor arguments that a byte budget may vary, and the values it tries."""

    no_speedup: ClassVar[str | None]
    """Why the compressed model cannot run faster in PyTorch; None when it can."""

    def __init__(
        self,
        *,
        modality: Patterns = None,
        part: Patterns = None,
        role: Patterns = None,
        granularity: Patterns = None,
    ) -> None:
        self.modality = _as_list(modality)
        self.part = _as_list(part)
        self.role = _as_list(role)
        self.granularity = _as_list(granularity)

    def varied(self, **changes: Any) -> Self:
        """A fresh one with some constructor arguments changed.

        Every subclass stores its arguments under their own names.
        """
        known = {name: getattr(self, name) for name in parameters_of(type(self)).types}
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

    @classmethod
    @abstractmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        """Carry out one decision; the kinds say what comes of it."""

    @classmethod
    def statistic_for(cls, target: Target, statistics: Mapping[str, Statistic]) -> Statistic | None:
        """What `apply` gets: that of the weight; for a module, whichever of its weights' it wants.

        Args:
            target: what is about to be compressed.
            statistics: by target name.
        """
        return statistics.get(target.name)


class StructureStep(Step):
    """A step that swaps modules."""

    stage = "structure"

    edit: ClassVar[tuple[str, int]]
    """Name and version, in `modules.edits`, of what it does: how an artifact says it."""

    @classmethod
    @abstractmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        """The module to put in the place of another; depends on nothing but the arguments.

        Args:
            module: owner of the weight, or the selected module itself.
            parameter: the weight's name in it; empty for a whole module.
            decision: from `plan`, perhaps read back from JSON.
            statistic: without it the result has the right shapes but untrained factors, for
                weights that will be loaded afterwards.
        """


class ParametrizingStep(Step, Generic[P]):
    """What masks and values have in common: a parametrization on each weight until it is baked.

    `ValueStep[FakeQuantize]` says its class, which `apply` makes and `finalize` gets.
    """

    trains_weight: ClassVar[bool] = True
    """False when parameters of the parametrization are trained in the weight's stead."""

    @classmethod
    @abstractmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> P:
        """The parametrization of one weight; depends on nothing but the arguments.

        Args:
            module: owner of the weight.
            parameter: the weight's name in it.
            decision: from `plan`, perhaps read back from JSON.
            statistic: None for weights that will be loaded afterwards.
        """

    @abstractmethod
    def finalize(self, parametrization: P, weight: Tensor) -> Encoding:
        """How to store a weight.

        Args:
            parametrization: what `apply` gave.
            weight: the baked weight, after all parametrizations.
        """


class MaskStep(ParametrizingStep[P]):
    """A step that makes weights zero."""

    stage = "mask"

    learns_mask: ClassVar[bool] = False
    """Whether the mask is trained by the gradient that reaches the weight."""


class ValueStep(ParametrizingStep[P]):
    """A step that says which values weights may have."""

    stage = "values"

    keeps_zeros: bool = True
    """Whether zeros of an earlier mask stay zero."""


KINDS: tuple[type[Step], ...] = (StructureStep, MaskStep, ValueStep)
"""In the order in which they run."""


class FollowsSchedule(ABC):
    """A step that changes what it has put on the model while training goes on."""

    @abstractmethod
    def on_step(self, applied: Mapping[str, Applied], progress: float) -> None:
        """Follow the schedule.

        Args:
            applied: by target name.
            progress: share of training that is done, in [0, 1].
        """


class AddsPenalty(ABC):
    """A step with a regularizer."""

    @abstractmethod
    def penalty(self, applied: Mapping[str, Applied]) -> Tensor | float:
        """What is added to the loss.

        Args:
            applied: by target name.
        """


class SharesTensors(ABC):
    """A step whose parametrizations have tensors in common."""

    @abstractmethod
    def share(self, applied: Mapping[str, Applied]) -> None:
        """Once every target has its parametrization: let them share, when applied and restored.

        Args:
            applied: by target name.
        """


class Compensates(ABC):
    """A step that makes up for what all steps have done; for that a dense copy is kept."""

    @abstractmethod
    def compensate(
        self, backbone: Backbone, dense: Backbone, batches: Sequence[dict[str, Tensor]]
    ) -> None:
        """Once all steps are applied, and before training.

        Args:
            backbone: compressed, edited in place.
            dense: as it was before the first step.
            batches: calibration data.
        """


class CutsWhenBaked(ABC):
    """A step that removes what training has emptied."""

    edit: ClassVar[tuple[str, int]]
    """Name and version, in `modules.edits`, of what `cut` does."""

    @abstractmethod
    def cut(
        self,
        backbone: Backbone,
        applied: Mapping[str, Applied],
        encodings: dict[str, Encoding],
    ) -> dict[str, Decision]:
        """Once all weights are baked.

        Args:
            backbone: baked, edited in place.
            applied: what the step had put on it, by target name.
            encodings: by target name; those of weights that are cut must be cut too.
        Returns:
            By module path: what the edit has to do to a dense skeleton to get the same shapes.
        """


class InTurns(ABC):
    """A step that may compress later layers on what earlier ones have become."""

    @abstractmethod
    def in_turns(self, targets: Sequence[Target]) -> list[list[Target]]:
        """The targets in the turns in which they are compressed.

        Statistics are collected anew before each turn except the first; `plan` has seen those of
        the dense model.
        """


def _passes(value: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names the value, or all are exceptions, and no exception names it."""
    wanted = [pattern for pattern in patterns if not pattern.startswith(EXCEPT)]
    spared = [pattern[len(EXCEPT) :] for pattern in patterns if pattern.startswith(EXCEPT)]
    return any(fnmatch.fnmatch(value, pattern) for pattern in wanted or ["*"]) and not any(
        fnmatch.fnmatch(value, pattern) for pattern in spared
    )


def _as_list(value: Patterns) -> list[str] | None:
    return [value] if isinstance(value, str) else None if value is None else list(value)
