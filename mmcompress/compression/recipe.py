"""A recipe: the ordered steps that compress a backbone."""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmcompress.artifact.dense import DenseSize
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import (
    LEFT_DENSE,
    Decision,
    NothingCompressed,
)
from mmcompress.compression.calibration import collect
from mmcompress.compression.checks import check_tied, check_trained_mask
from mmcompress.compression.compressed import Compressed, Plan
from mmcompress.compression.modality_balance import WeighsTokens
from mmcompress.compression.reach import weight_of, weights_of
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import (
    KINDS,
    Compensates,
    InTurns,
    MaskStep,
    SharesTensors,
    Step,
    StructureStep,
    ValueStep,
)
from mmcompress.system.distributed import broadcast

log = logging.getLogger(__name__)

DTYPES = ("float32", "float16")


class Recipe:
    """Ordered steps; nothing in it changes.

    Args:
        steps: by name, in the order in which they run: structure, then masks, then values. A step
            that is None is left out, so that a stack can drop one from the command line.
        dense_dtype: how tensors that no step compresses are stored: `float16`, which rounds them,
            or `float32`. A tensor that float16 cannot hold stays float32.
    """

    def __init__(
        self,
        steps: Mapping[str, Step | None] | None = None,
        *,
        dense_dtype: str = "float16",
    ) -> None:
        kept = {name: step for name, step in (steps or {}).items() if step is not None}
        if dense_dtype not in DTYPES:
            raise ValueError(f"dense_dtype={dense_dtype!r} must be one of {', '.join(DTYPES)}")
        self._steps, self._dense_dtype = MappingProxyType(kept), dense_dtype
        order = [next(i for i, k in enumerate(KINDS) if isinstance(s, k)) for s in kept.values()]
        if order != sorted(order):
            given = ", ".join(f"{name} ({step.stage})" for name, step in kept.items())
            right = " before ".join(kind.stage for kind in KINDS)
            raise ValueError(
                f"steps run in the order {given}: put {right}, for a later kind works on what an "
                "earlier one leaves"
            )

    @property
    def steps(self) -> Mapping[str, Step]:
        """By name, in the order in which they run."""
        return self._steps

    @property
    def dense_dtype(self) -> str:
        """How tensors that no step compresses are stored."""
        return self._dense_dtype

    @property
    def no_speedup(self) -> str | None:
        """Why the compressed model cannot run faster; None when some step lets it."""
        reasons = [step.no_speedup for step in self.steps.values()]
        if None in reasons:
            return None
        return "; ".join(dict.fromkeys(r for r in reasons if r)) or "nothing was compressed"

    def varied(self, changes: Mapping[str, Mapping[str, Any]]) -> "Recipe":
        """A recipe of the named steps alone, with some of their arguments changed."""
        steps = {n: s.varied(**changes[n]) for n, s in self.steps.items() if n in changes}
        return Recipe(steps, dense_dtype=self.dense_dtype)

    def check(self, backbone: Backbone, *, alternatives: bool = False) -> None:
        """Refuse what cannot work, before any work is done.

        Args:
            backbone: dense.
            alternatives: several steps may store the values of one weight, for a search will choose
                among them.
        Raises:
            ValueError: a selector matches nothing, a setting does not fit a weight, two steps
                store values of one weight, tied weights are torn apart.
        """
        weights = dict(backbone.model.named_parameters(remove_duplicate=False))
        owners: dict[str, str] = {}
        masked: dict[str, MaskStep] = {}
        for name, step in self.steps.items():
            if isinstance(step, WeighsTokens):
                step.check_balance(backbone)
            for target in self._select(name, step, backbone):
                if not target.parameter:
                    step.check_module(target, backbone)
                    continue
                check_tied(target, backbone.model)
                step.check(target, weights[target.name])
                if isinstance(step, MaskStep):
                    masked[target.name] = step
                if not isinstance(step, ValueStep):
                    continue
                if target.name in owners and not alternatives:
                    raise ValueError(
                        f"steps {owners[target.name]} and {name} both store the values of "
                        f"{target.name}: separate them with selectors (modality, role)"
                    )
                if target.name in masked and not step.keeps_zeros:
                    raise ValueError(
                        f"step {name} cannot keep the zeros that pruning leaves in {target.name}: "
                        "share single weights (compression=cluster), or separate them by selectors"
                    )
                if target.name in masked and masked[target.name].learns_mask:
                    check_trained_mask(name, step, target)
                owners[target.name] = name

    def apply(
        self,
        backbone: Backbone,
        batches: Iterable[dict[str, Tensor]],
        plan: Plan | None = None,
        *,
        dense: DenseSize | None = None,
        statistics: dict[str, Statistic] | None = None,
    ) -> Compressed:
        """The backbone, compressed: calibrate, decide, and edit it in place.

        Args:
            backbone: dense, in float32.
            batches: calibration data, modality → preprocessed inputs; read once for each step
                that wants statistics of layers which did not exist before.
            plan: decisions that a search has found; what it lacks is left alone. None lets each
                step decide.
            dense: size of the backbone, where it is known.
            statistics: of the dense backbone, as earlier calls with the same batches found them; it
                gets what the first step needs beyond that.
        Raises:
            ValueError: a step compresses nothing, calibration data are needed and there are none, a
                target saw none of them, or they make numbers that are not finite.
        """
        self.check(backbone, alternatives=plan is not None)
        batches = list(batches)
        if not batches:
            self._check_needless()
        compensating = [step for step in self.steps.values() if isinstance(step, Compensates)]
        before = copy.deepcopy(backbone) if compensating else None
        made = Compressed(
            backbone, self.steps, self.dense_dtype, dense or DenseSize.of(backbone.model)
        )
        statistics = {} if statistics is None else statistics
        for name, step in self.steps.items():
            targets = self._select(name, step, backbone)
            inside = weights_of(backbone, targets)
            _calibrate(backbone, batches, step, inside, statistics)
            # What later steps add is of an edited model, and not the caller's.
            statistics = {key: copy.copy(found) for key, found in statistics.items()}
            weights = {t.name: weight_of(backbone, t) for t in inside}
            for target in targets:
                if target.parameter:
                    step.check(target, weights[target.name])
                else:
                    step.check_module(target, backbone)
            if plan is None:
                decisions = broadcast(step.plan(targets, weights, statistics))
            else:
                decisions = _left_out(plan[name], targets)
            compressed = [t for t in targets if LEFT_DENSE not in decisions[t.name]]
            if not compressed and plan is None:
                reasons = Counter(d[LEFT_DENSE] for d in decisions.values())
                raise NothingCompressed(
                    f"step {name} would compress none of its {len(targets)} targets "
                    f"({reasons.most_common(1)[0][0]}): lower its setting or widen its selectors"
                )
            del weights  # else every dense weight would live until the last layer is edited
            made.plan[name] = decisions
            made.cover(name, compressed)
            turns = step.in_turns(compressed) if isinstance(step, InTurns) else [compressed]
            for turn, part in enumerate(turns):
                if turn:
                    statistics = {}
                    inside = weights_of(backbone, part)
                    _calibrate(backbone, batches, step, inside, statistics)
                for target in part:
                    made.edit(name, target, decisions[target.name], statistics)
            if isinstance(step, SharesTensors):
                step.share(made.applied[name])
            if isinstance(
                step, StructureStep
            ):  # what later layers see has changed, and their shapes
                statistics = {}
        for step in compensating:
            assert before is not None
            step.compensate(backbone, before, batches)
        return made

    def restore(
        self, backbone: Backbone, plan: Plan, *, dense: DenseSize | None = None
    ) -> Compressed:
        """A dense backbone edited as `plan` says, for weights that will be loaded afterwards.

        Args:
            backbone: edited in place.
            plan: of `Compressed.plan`.
            dense: size of the backbone, where it is known.
        """
        size = dense or DenseSize.of(backbone.model)
        made = Compressed(backbone, self.steps, self.dense_dtype, size, plan=plan)
        for name, step in self.steps.items():
            targets = {t.name: t for t in step.candidates(backbone)}
            edits = {k: d for k, d in plan[name].items() if LEFT_DENSE not in d}
            made.cover(name, [targets[key] for key in edits])
            for key, decision in edits.items():
                made.edit(name, targets[key], decision, {})
            if isinstance(step, SharesTensors):
                step.share(made.applied[name])
        return made

    def _select(self, name: str, step: Step, backbone: Backbone) -> list[Target]:
        try:
            return step.select(step.candidates(backbone))
        except ValueError as error:
            raise ValueError(f"compression.steps.{name}: {error}") from error

    def _check_needless(self) -> None:
        """Refuse to decide on nothing; say so where there is nothing to decide."""
        asking = [n for n, s in self.steps.items() if s.needs or isinstance(s, Compensates)]
        if asking:
            raise ValueError(
                f"compression needs calibration data for {', '.join(asking)} and there are none: "
                "give a train split that can be read, or a recipe that looks at weights alone"
            )
        log.warning("there are no calibration data, and no step of the recipe needs any")


def _calibrate(
    backbone: Backbone,
    batches: Sequence[dict[str, Tensor]],
    step: Step,
    targets: Sequence[Target],
    statistics: dict[str, Statistic],
) -> None:
    """Add to `statistics` what the step needs and earlier steps have not asked for."""
    for need in sorted(step.needs):
        missing = [t for t in targets if getattr(statistics.get(t.name), need, None) is None]
        found = collect(backbone, batches, missing, [need]) if missing else {}
        for key, statistic in found.items():
            known = statistics.setdefault(key, statistic)
            setattr(known, need, getattr(statistic, need))


def _left_out(decisions: Mapping[str, Decision], targets: Sequence[Target]) -> dict[str, Decision]:
    """Decisions for all targets: what the search gave another choice is left as it is."""
    elsewhere: Decision = {LEFT_DENSE: "the budget chose otherwise"}
    return {target.name: decisions.get(target.name, elsewhere) for target in targets}
