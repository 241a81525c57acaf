"""A recipe: the ordered steps that compress a backbone, and the only loop that drives them."""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.baking import Baking, put_back
from mmcompress.compression.base import (
    LEFT_DENSE,
    STAGES,
    Applied,
    Compressor,
    Decision,
    NothingCompressed,
)
from mmcompress.compression.statistics import Statistic, collect
from mmcompress.functional.finite import check_trained
from mmcompress.functional.float16 import round_to_float16
from mmcompress.modules.edits import find_edit
from mmcompress.modules.replace import replace_module
from mmcompress.search.budget import Budget, left_out
from mmcompress.system.distributed import broadcast
from mmcompress.system.memory import give_back

log = logging.getLogger(__name__)

Plan = dict[str, dict[str, Decision]]
"""Step name → target name → decision; JSON."""

DTYPES = ("float32", "float16")


class Recipe:
    """Ordered steps over one backbone.

    Args:
        steps: by name, in the order in which they run: structure, then masks, then values. A step
            that is None is left out, so that a stack can drop one from the command line.
        dense_dtype: how tensors that no step compresses are stored: `float16`, which rounds them,
            or `float32`. A tensor that float16 cannot hold stays float32.
        budget: finds which layer gets which strength of the steps, or which of several steps.
    """

    def __init__(
        self,
        steps: Mapping[str, Compressor | None] | None = None,
        *,
        dense_dtype: str = "float16",
        budget: Budget | None = None,
    ) -> None:
        self.steps = {name: step for name, step in (steps or {}).items() if step is not None}
        if dense_dtype not in DTYPES:
            raise ValueError(f"dense_dtype={dense_dtype!r} must be one of {', '.join(DTYPES)}")
        self.dense_dtype = dense_dtype
        self.budget = budget if budget is not None and budget.is_set else None
        self.plan: Plan = {}
        self.budget_report: dict[str, Any] | None = None
        """What each layer could have had and got, `Budget.report()`; None without a budget."""
        self.coverage: dict[str, float] = {}
        """Share of the parameters, as they were when the step ran, that it compresses."""
        self.untouched: dict[str, list[str]] = {}
        """Towers of which a step compresses nothing, by its selectors or for what they are."""
        self._cuts: dict[str, dict[str, Decision]] = {}
        self._check_order()

    def _check_order(self) -> None:
        stages = [STAGES.index(step.stage) for step in self.steps.values()]
        if stages != sorted(stages):
            order = ", ".join(f"{name} ({step.stage})" for name, step in self.steps.items())
            raise ValueError(
                f"steps run in the order {order}: put {' before '.join(STAGES)}, for a later kind "
                "works on what an earlier one leaves"
            )

    @property
    def no_speedup(self) -> str | None:
        """Why the compressed model cannot run faster; None when some step lets it."""
        reasons = [step.no_speedup for step in self.steps.values()]
        if None in reasons:
            return None
        return "; ".join(dict.fromkeys(r for r in reasons if r)) or "nothing was compressed"

    def check(self, backbone: Backbone) -> None:
        """Refuse what cannot work, before any work is done.

        Raises:
            ValueError: a selector matches nothing, a setting does not fit a weight, two steps
                store values of one weight, tied weights are torn apart.
        """
        weights = dict(backbone.model.named_parameters(remove_duplicate=False))
        owners: dict[str, str] = {}
        masked: dict[str, Compressor] = {}
        for name, step in self.steps.items():
            for target in self._select(name, step, backbone):
                if not target.parameter:
                    step.check_module(target, backbone)
                    continue
                _check_tied(target, backbone.model)
                step.check(target, weights[target.name])
                if step.stage == "mask":
                    masked[target.name] = step
                if step.stage != "values":
                    continue
                if target.name in owners and self.budget is None:
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
                    _check_trained(name, step, target)
                owners[target.name] = name
        if self.budget is not None:
            self.budget.check(self, backbone)

    def apply(self, backbone: Backbone, batches: Iterable[dict[str, Tensor]]) -> Plan:
        """Calibrate, decide, and edit the backbone in place.

        Args:
            batches: calibration data, modality → preprocessed inputs; read once for each step
                that wants statistics of layers which did not exist before.
        Returns:
            The plan, which `restore` understands.
        Raises:
            ValueError: a step compresses nothing, calibration data are needed and there are none, a
                target saw none of them, or they make numbers that are not finite.
        """
        self.check(backbone)
        batches = list(batches)
        if not batches:
            self._check_needless()
        plan = None
        if self.budget is not None:
            plan = self.budget.search(self, backbone, batches)
            self.budget_report = self.budget.report()
        plan = self.carry_out(backbone, batches, plan)
        for name, decisions in plan.items():
            untouched = "".join(f", none in {tower}" for tower in self.untouched[name])
            compressed = len(self._compressed(name))
            log.info("%s: %d of %d targets%s", name, compressed, len(decisions), untouched)
        return plan

    def _check_needless(self) -> None:
        """Refuse to decide on nothing; say so where there is nothing to decide."""
        asking = [name for name, step in self.steps.items() if step.needs or step.settles]
        asking += [] if self.budget is None else ["budget"]
        if asking:
            raise ValueError(
                f"compression needs calibration data for {', '.join(asking)} and there are none: "
                "give a train split that can be read, or a recipe that looks at weights alone"
            )
        log.warning("there are no calibration data, and no step of the recipe needs any")

    def carry_out(
        self,
        backbone: Backbone,
        batches: Sequence[dict[str, Tensor]],
        plan: Plan | None = None,
    ) -> Plan:
        """`apply`, with the decisions of `plan` where there is one; what it lacks is left alone."""
        settling = [step for step in self.steps.values() if step.settles]
        dense = copy.deepcopy(backbone) if settling else None
        statistics: dict[str, Statistic] = {}
        for name, step in self.steps.items():
            targets = self._select(name, step, backbone)
            inside = _weights_of(backbone, targets)
            self._calibrate(backbone, batches, step, inside, statistics)
            weights = {t.name: _weight(backbone, t) for t in inside}
            for target in targets:
                if target.parameter:
                    step.check(target, weights[target.name])
                else:
                    step.check_module(target, backbone)
            if plan is None:
                decisions = broadcast(step.plan(targets, weights, statistics))
            else:
                decisions = left_out(plan[name], targets)
            compressed = [t for t in targets if LEFT_DENSE not in decisions[t.name]]
            if not compressed and plan is None:
                reasons = Counter(d[LEFT_DENSE] for d in decisions.values())
                raise NothingCompressed(
                    f"step {name} would compress none of its {len(targets)} targets "
                    f"({reasons.most_common(1)[0][0]}): lower its setting or widen its selectors"
                )
            del weights  # else every dense weight would live until the last layer is edited
            self.plan[name] = decisions
            self._cover(name, backbone, compressed)
            for turn, part in enumerate(step.in_turns(compressed)):
                if turn:
                    statistics = {}
                    inside = _weights_of(backbone, part)
                    self._calibrate(backbone, batches, step, inside, statistics)
                for target in part:
                    self._edit(backbone, step, target, decisions[target.name], statistics)
            step.join()
            if step.stage == "structure":  # what later layers see has changed, and their shapes
                statistics = {}
        for step in settling:
            assert dense is not None
            step.settle(backbone, dense, batches)
        return self.plan

    def varied(self, changes: Mapping[str, Mapping[str, Any]]) -> "Recipe":
        """A fresh recipe of the named steps, with some of their arguments changed, no budget."""
        steps = {n: s.varied(**changes[n]) for n, s in self.steps.items() if n in changes}
        return Recipe(steps, dense_dtype=self.dense_dtype)

    def _calibrate(
        self,
        backbone: Backbone,
        batches: Sequence[dict[str, Tensor]],
        step: Compressor,
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

    def restore(self, backbone: Backbone, plan: Plan, budget: dict[str, Any] | None = None) -> None:
        """Edit a dense backbone as `plan` says, for weights that will be loaded afterwards.

        Args:
            budget: the report of the budget that has found the plan.
        """
        for name, step in self.steps.items():
            targets = {t.name: t for t in step.candidates(backbone)}
            edits = {k: d for k, d in plan[name].items() if LEFT_DENSE not in d}
            self._cover(name, backbone, [targets[key] for key in edits])
            for key, decision in edits.items():
                self._edit(backbone, step, targets[key], decision, {})
            step.join()
        self.plan = plan
        self.budget_report = budget

    @property
    def has_schedule(self) -> bool:
        """Whether `on_step` does anything."""
        return any(type(s).on_step is not Compressor.on_step for s in self.steps.values())

    def on_step(self, progress: float) -> None:
        """Tell every schedule how far training is, in [0, 1]."""
        for step in self.steps.values():
            step.on_step(progress)

    def penalty(self) -> Tensor | float:
        """Sum of the steps' regularisers."""
        return sum(step.penalty() for step in self.steps.values())

    def finalize(self, backbone: Backbone) -> dict[str, Encoding]:
        """Bake every parametrisation into its weight.

        Returns:
            How to store each weight that some step has compressed, by target name.
        """
        return put_back(backbone.model, self.bake(backbone))

    @torch.no_grad()
    def bake(self, backbone: Backbone) -> Mapping[str, Encoding]:
        """`finalize` for a model that is only to be stored: no two weights are in memory at once.

        Returns:
            The same; weights come with their encodings when these are asked for, and the model
            holds them no more.
        Raises:
            ValueError: a parameter is not finite; codes could not say so.
        """
        check_trained(backbone.model)
        self.on_step(1.0)
        encodings: Mapping[str, Encoding] = Baking(self.steps)
        for step in self.steps.values():
            step.applied.clear()
        self._cuts = {}
        if any(step.cuts for step in self.steps.values()):  # sees all weights of a module
            baked = put_back(backbone.model, encodings)
            self._cuts = {name: step.cut(backbone, baked) for name, step in self.steps.items()}
            encodings = baked
        if self.dense_dtype == "float16":
            for key, tensor in backbone.model.state_dict().items():
                # A weight that several places share is gone from all of them.
                if key not in encodings and tensor.dtype == torch.float32 and not tensor.is_meta:
                    tensor.copy_(round_to_float16(tensor))
        backbone.requires_grad_(True)
        return encodings

    def structure(self) -> list[dict[str, Any]]:
        """The edits that an empty skeleton needs before weights fit: JSON, in order.

        Complete after `finalize`, which may cut what training has emptied.
        """
        applied = [
            _edits(name, step, self._compressed(name))
            for name, step in self.steps.items()
            if step.stage == "structure"
        ]
        cut = [_edits(name, self.steps[name], cuts) for name, cuts in self._cuts.items() if cuts]
        return applied + cut

    def _compressed(self, name: str) -> dict[str, Decision]:
        return {k: d for k, d in self.plan[name].items() if LEFT_DENSE not in d}

    def reasons(self) -> dict[str, str]:
        """Why each target that a step left alone was left dense, by target name."""
        return {
            key: f"{name}: {decision[LEFT_DENSE]}"
            for name, decisions in self.plan.items()
            for key, decision in decisions.items()
            if LEFT_DENSE in decision
        }

    def _select(self, name: str, step: Compressor, backbone: Backbone) -> list[Target]:
        try:
            return step.select(step.candidates(backbone))
        except ValueError as error:
            raise ValueError(f"compression.steps.{name}: {error}") from error

    def _cover(self, name: str, backbone: Backbone, compressed: Iterable[Target]) -> None:
        codebooks = {  # several weights may share one
            parameter
            for step in self.steps.values()
            for applied in step.applied.values()
            for parameter in applied.parametrization.parameters()
        }
        total = sum(p.numel() for p in backbone.model.parameters())
        total -= sum(p.numel() for p in codebooks)
        covered = _weights_of(backbone, list(compressed))
        touched = {t.modality for t in covered}
        self.untouched[name] = [m for m in backbone.modalities if m not in touched]
        self.coverage[name] = sum(_weight(backbone, t).numel() for t in covered) / total

    def _edit(
        self,
        backbone: Backbone,
        step: Compressor,
        target: Target,
        decision: Decision,
        statistics: Mapping[str, Statistic],
    ) -> None:
        module = backbone.model.get_submodule(target.module)
        weights = list(module.parameters())
        statistic = step.statistic_for(target, statistics)
        new = step.apply(module, target.parameter, decision, statistic)
        if step.stage == "structure":
            replace_module(backbone.model, target.module, new)
            give_back(weights)
            return
        parametrize.register_parametrization(module, target.parameter, new)
        applied = Applied(module, target.parameter, new)
        initial = getattr(new, "initial", None)
        if initial is not None:
            applied.original.data.copy_(initial)
            new.initial = None  # type: ignore[assignment]
        if not step.trains_weight:
            applied.original.requires_grad_(False)
        step.applied[target.name] = applied
        give_back(weights)


def _weight(backbone: Backbone, target: Target) -> Tensor:
    return getattr(backbone.model.get_submodule(target.module), target.parameter).detach()


def _weights_of(backbone: Backbone, targets: Sequence[Target]) -> list[Target]:
    """The targets that are weights, and the weights inside those that are modules."""
    modules = [t.module for t in targets if not t.parameter]
    prefixes = tuple(f"{module}." if module else "" for module in modules)
    names = {t.name for t in targets if t.parameter}
    return [
        t
        for t in backbone.targets()
        if t.name in names or (prefixes and t.name.startswith(prefixes))
    ]


def _edits(name: str, step: Compressor, decisions: Mapping[str, Decision]) -> dict[str, Any]:
    assert step.edit is not None, f"{type(step).__name__} names no edit"
    edit, version = step.edit
    stored = find_edit(edit, version).stored
    return {
        "step": name,
        "edit": edit,
        "version": version,
        "modules": {k.removesuffix(".weight"): stored(d) for k, d in decisions.items()},
    }


def _check_trained(name: str, step: Compressor, target: Target) -> None:
    """A mask that is learnt from the weight's gradient, under a step that lets none through."""
    if not step.trains_weight:
        raise ValueError(
            f"step {name} trains parameters of its own in place of {target.name}, so no gradient "
            "reaches the mask that an earlier step learns: use magnitude or wanda, or separate "
            "them with selectors (modality, role)"
        )


def _check_tied(target: Target, model: nn.Module) -> None:
    """Two modules that hold one weight; a module that stands in several places is no problem."""
    weight = getattr(model.get_submodule(target.module), target.parameter)
    twins = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is weight and (path, name) != (target.module, target.parameter)
    ]
    if twins:
        raise ValueError(
            f"{target.name} is tied to {', '.join(twins)} and compressing one would tear them "
            "apart: leave it out with a selector (modality, role)"
        )
