"""A recipe: the ordered steps that compress a backbone; and what comes of it, `Compressed`."""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.artifact.dense import DenseSize
from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.baking import Baking, put_back
from mmcompress.compression.base import (
    LEFT_DENSE,
    Applied,
    Decision,
    NothingCompressed,
    Parametrization,
)
from mmcompress.compression.checks import check_tied, check_trained_mask
from mmcompress.compression.reach import weight_of, weights_of
from mmcompress.compression.statistics import Statistic, collect
from mmcompress.compression.steps import (
    KINDS,
    AddsPenalty,
    Compensates,
    CutsWhenBaked,
    FollowsSchedule,
    InTurns,
    MaskStep,
    ParametrizingStep,
    SharesTensors,
    Step,
    StructureStep,
    ValueStep,
)
from mmcompress.functional.finite import check_trained
from mmcompress.functional.float16 import round_to_float16
from mmcompress.modules.edits import find_edit
from mmcompress.modules.replace import replace_module
from mmcompress.system.distributed import broadcast
from mmcompress.system.memory import give_back

log = logging.getLogger(__name__)

Plan = dict[str, dict[str, Decision]]
"""Step name → target name → decision; JSON."""

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
    ) -> "Compressed":
        """The backbone, compressed: calibrate, decide, and edit it in place.

        Args:
            backbone: dense, in float32.
            batches: calibration data, modality → preprocessed inputs; read once for each step
                that wants statistics of layers which did not exist before.
            plan: decisions that a search has found; what it lacks is left alone. None lets each
                step decide.
            dense: size of the backbone, where it is known.
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
        made = Compressed(backbone, self, dense or DenseSize.of(backbone.model))
        statistics: dict[str, Statistic] = {}
        for name, step in self.steps.items():
            targets = self._select(name, step, backbone)
            inside = weights_of(backbone, targets)
            _calibrate(backbone, batches, step, inside, statistics)
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
            made._cover(name, compressed)
            turns = step.in_turns(compressed) if isinstance(step, InTurns) else [compressed]
            for turn, part in enumerate(turns):
                if turn:
                    statistics = {}
                    inside = weights_of(backbone, part)
                    _calibrate(backbone, batches, step, inside, statistics)
                for target in part:
                    made._edit(name, target, decisions[target.name], statistics)
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
    ) -> "Compressed":
        """A dense backbone edited as `plan` says, for weights that will be loaded afterwards.

        Args:
            backbone: edited in place.
            plan: of `Compressed.plan`.
            dense: size of the backbone, where it is known.
        """
        made = Compressed(backbone, self, dense or DenseSize.of(backbone.model), plan=plan)
        for name, step in self.steps.items():
            targets = {t.name: t for t in step.candidates(backbone)}
            edits = {k: d for k, d in plan[name].items() if LEFT_DENSE not in d}
            made._cover(name, [targets[key] for key in edits])
            for key, decision in edits.items():
                made._edit(name, targets[key], decision, {})
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


@dataclass
class Compressed:
    """A backbone that a recipe has edited, and what happened to it.

    Attributes:
        backbone: with parametrizations on its weights, until it is baked.
        recipe: what was applied.
        dense: size of the model as it was.
        plan: what each step has decided; `Recipe.restore` understands it.
        coverage: share of the parameters, as they were when a step ran, that it compresses.
        untouched: towers of which a step compresses nothing, by its selectors or for what they are.
        applied: the parametrizations of each step, by target name.
    """

    backbone: Backbone
    recipe: Recipe
    dense: DenseSize
    plan: Plan = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)
    untouched: dict[str, list[str]] = field(default_factory=dict)
    applied: dict[str, dict[str, Applied]] = field(default_factory=dict)
    _cuts: dict[str, dict[str, Decision]] = field(default_factory=dict)
    _encodings: Mapping[str, Encoding] | None = None

    def __post_init__(self) -> None:
        self.applied = {name: {} for name in self.recipe.steps}

    @property
    def has_schedule(self) -> bool:
        """Whether `on_step` does anything."""
        return any(isinstance(step, FollowsSchedule) for step in self.recipe.steps.values())

    def on_step(self, progress: float) -> None:
        """Tell every schedule how far training is, in [0, 1]."""
        for name, step in self.recipe.steps.items():
            if isinstance(step, FollowsSchedule):
                step.on_step(self.applied[name], progress)

    def penalty(self) -> Tensor | float:
        """Sum of the steps' regularizers."""
        return sum(
            step.penalty(self.applied[name])
            for name, step in self.recipe.steps.items()
            if isinstance(step, AddsPenalty)
        )

    def reasons(self) -> dict[str, str]:
        """Why each target that a step left alone was left dense, by target name."""
        return {
            key: f"{name}: {decision[LEFT_DENSE]}"
            for name, decisions in self.plan.items()
            for key, decision in decisions.items()
            if LEFT_DENSE in decision
        }

    def structure(self) -> list[dict[str, Any]]:
        """The edits that an empty skeleton needs before weights fit: JSON, in order.

        Complete after `finalize`, which may cut what training has emptied.
        """
        made = [
            _edits(name, step, self._compressed(name))
            for name, step in self.recipe.steps.items()
            if isinstance(step, StructureStep)
        ]
        cut = [
            _edits(name, step, self._cuts[name])
            for name, step in self.recipe.steps.items()
            if isinstance(step, CutsWhenBaked) and self._cuts.get(name)
        ]
        return made + cut

    def finalize(self) -> dict[str, Encoding]:
        """Bake every parametrization into its weight: the backbone is ordinary modules again.

        Returns:
            How to store each weight that some step has compressed, by target name.
        """
        encodings = put_back(self.backbone.model, self.bake())
        self._encodings = encodings
        return encodings

    @torch.no_grad()
    def bake(self) -> Mapping[str, Encoding]:
        """`finalize` for a model that is only to be stored: no two weights are in memory at once.

        Returns:
            The same; weights come with their encodings when these are asked for, and the model
            holds them no more.
        Raises:
            ValueError: a parameter is not finite; codes could not say so.
        """
        backbone, steps = self.backbone, self.recipe.steps
        check_trained(backbone.model)
        self.on_step(1.0)
        applied, self.applied = self.applied, {name: {} for name in steps}
        encodings: Mapping[str, Encoding] = Baking(steps, applied)
        cutting = {n: step for n, step in steps.items() if isinstance(step, CutsWhenBaked)}
        if cutting:  # they see all weights of a module
            baked = put_back(backbone.model, encodings)
            self._cuts = {n: step.cut(backbone, applied[n], baked) for n, step in cutting.items()}
            encodings = baked
        if self.recipe.dense_dtype == "float16":
            for key, tensor in backbone.model.state_dict().items():
                # A weight that several places share is gone from all of them.
                if key not in encodings and tensor.dtype == torch.float32 and not tensor.is_meta:
                    tensor.copy_(round_to_float16(tensor))
        backbone.requires_grad_(True)
        self._encodings = encodings
        return encodings

    def save(self, folder: str | Path, *, run: Mapping[str, Any] | None = None) -> Artifact:
        """The artifact in `folder`, which must not exist; it appears complete or not at all.

        The backbone is ordinary modules afterwards; after a `bake` it has given its weights up.

        Args:
            folder: to create.
            run: small JSON that says where it comes from: `config_hash`, `recipe`.
        Raises:
            ValueError: `folder` exists, or a weight is NaN or infinite.
        """
        encodings = self.finalize() if self._encodings is None else self._encodings
        return Artifact.save(
            Path(folder),
            self.backbone,
            structure=self.structure(),
            encodings=encodings,
            reasons=self.reasons(),
            dense_bytes=self.dense.bytes,
            dense_parameters=self.dense.parameters,
            dense_dtype=self.recipe.dense_dtype,
            run=run or {"config_hash": "", "recipe": " + ".join(self.recipe.steps)},
        )

    def log_coverage(self) -> None:
        """Say how many targets each step compresses, and in which towers none."""
        for name, decisions in self.plan.items():
            untouched = "".join(f", none in {tower}" for tower in self.untouched[name])
            compressed = len(self._compressed(name))
            log.info("%s: %d of %d targets%s", name, compressed, len(decisions), untouched)

    def _compressed(self, name: str) -> dict[str, Decision]:
        return {k: d for k, d in self.plan[name].items() if LEFT_DENSE not in d}

    def _cover(self, name: str, compressed: Iterable[Target]) -> None:
        codebooks = {  # several weights may share one
            parameter
            for applied in self.applied.values()
            for one in applied.values()
            for parameter in one.parametrization.parameters()
        }
        total = sum(p.numel() for p in self.backbone.model.parameters())
        total -= sum(p.numel() for p in codebooks)
        covered = weights_of(self.backbone, list(compressed))
        touched = {t.modality for t in covered}
        self.untouched[name] = [m for m in self.backbone.modalities if m not in touched]
        self.coverage[name] = sum(weight_of(self.backbone, t).numel() for t in covered) / total

    def _edit(
        self,
        name: str,
        target: Target,
        decision: Decision,
        statistics: Mapping[str, Statistic],
    ) -> None:
        step, model = self.recipe.steps[name], self.backbone.model
        module = model.get_submodule(target.module)
        weights = list(module.parameters())
        new = step.apply(module, target.parameter, decision, step.statistic_for(target, statistics))
        if isinstance(step, ParametrizingStep):
            self.applied[name][target.name] = _parametrize(step, module, target.parameter, new)
        else:
            replace_module(model, target.module, new)
        give_back(weights)


def _parametrize(
    step: ParametrizingStep, module: nn.Module, parameter: str, new: nn.Module
) -> Applied:
    """What a step has made, on a weight.

    Args:
        module, parameter: owner and name of the weight.
        new: from `step.apply`.
    """
    parametrize.register_parametrization(module, parameter, new)
    applied = Applied(module, parameter, new)
    if isinstance(new, Parametrization) and new.initial is not None:
        applied.original.data.copy_(new.initial)
        new.initial = None
    if not step.trains_weight:
        applied.original.requires_grad_(False)
    return applied


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


def _edits(
    name: str, step: StructureStep | CutsWhenBaked, decisions: Mapping[str, Decision]
) -> dict[str, Any]:
    edit, version = step.edit
    stored = find_edit(edit, version).stored
    return {
        "step": name,
        "edit": edit,
        "version": version,
        "modules": {k.removesuffix(".weight"): stored(d) for k, d in decisions.items()},
    }
