"""A backbone that a recipe has edited: what happened to it, training it, baking and saving it."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.artifact.dense import DenseSize
from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone, Target
from mmcompress.backbones.parts import part_sizes
from mmcompress.compression.baking import Baking, put_back
from mmcompress.compression.base import LEFT_DENSE, Applied, Decision, Parametrization
from mmcompress.compression.reach import weight_of, weights_of
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import (
    AddsPenalty,
    CutsWhenBaked,
    FollowsSchedule,
    ParametrizingStep,
    Step,
    StructureStep,
)
from mmcompress.functional.finite import check_trained
from mmcompress.functional.float16 import round_to_float16
from mmcompress.modules.edits import find_edit
from mmcompress.modules.replace import replace_module

log = logging.getLogger(__name__)

Plan = dict[str, dict[str, Decision]]
"""Step name → target name → decision; JSON."""


@dataclass
class Compressed:
    """A backbone that a recipe has edited, and what happened to it.

    Attributes:
        backbone: with parametrizations on its weights, until it is baked.
        steps: of the recipe that was applied, by name.
        dense_dtype: how tensors that no step compresses are stored.
        dense: size of the model as it was.
        plan: what each step has decided; `Recipe.restore` understands it.
        coverage: share of the parameters, as they were when a step ran, that it compresses.
        coverage_by_part: step → part of the model → the share of its parameters.
        untouched: towers of which a step compresses nothing, by its selectors or for what they are.
        applied: the parametrizations of each step, by target name.
    """

    backbone: Backbone
    steps: Mapping[str, Step]
    dense_dtype: str
    dense: DenseSize
    plan: Plan = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)
    coverage_by_part: dict[str, dict[str, float]] = field(default_factory=dict)
    untouched: dict[str, list[str]] = field(default_factory=dict)
    applied: dict[str, dict[str, Applied]] = field(default_factory=dict)
    _cuts: dict[str, dict[str, Decision]] = field(default_factory=dict)
    _encodings: Mapping[str, Encoding] | None = None

    def __post_init__(self) -> None:
        self.applied = {name: {} for name in self.steps}

    @property
    def has_schedule(self) -> bool:
        """Whether `on_step` does anything."""
        return any(isinstance(step, FollowsSchedule) for step in self.steps.values())

    def on_step(self, progress: float) -> None:
        """Tell every schedule how far training is, in [0, 1]."""
        for name, step in self.steps.items():
            if isinstance(step, FollowsSchedule):
                step.on_step(self.applied[name], progress)

    def penalty(self) -> Tensor | float:
        """Sum of the steps' regularizers."""
        return sum(
            step.penalty(self.applied[name])
            for name, step in self.steps.items()
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
            for name, step in self.steps.items()
            if isinstance(step, StructureStep)
        ]
        cut = [
            _edits(name, step, self._cuts[name])
            for name, step in self.steps.items()
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
        backbone, steps = self.backbone, self.steps
        check_trained(backbone.model)
        self.on_step(1.0)
        applied, self.applied = self.applied, {name: {} for name in steps}
        encodings: Mapping[str, Encoding] = Baking(steps, applied)
        cutting = {n: step for n, step in steps.items() if isinstance(step, CutsWhenBaked)}
        if cutting:  # they see all weights of a module
            baked = put_back(backbone.model, encodings)
            self._cuts = {n: step.cut(backbone, applied[n], baked) for n, step in cutting.items()}
            encodings = baked
        if self.dense_dtype == "float16":
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
            dense_dtype=self.dense_dtype,
            run=run or {"config_hash": "", "recipe": " + ".join(self.steps)},
        )

    def log_coverage(self) -> None:
        """Say how many targets each step compresses, and in which towers none."""
        for name, decisions in self.plan.items():
            untouched = "".join(f", none in {tower}" for tower in self.untouched[name])
            compressed = len(self._compressed(name))
            log.info("%s: %d of %d targets%s", name, compressed, len(decisions), untouched)

    def _compressed(self, name: str) -> dict[str, Decision]:
        return {k: d for k, d in self.plan[name].items() if LEFT_DENSE not in d}

    def cover(self, name: str, compressed: Iterable[Target]) -> None:
        """Note which share of the parameters a step compresses, before it does.

        Args:
            name: of the step.
            compressed: its targets, except those that it leaves dense.
        """
        codebooks = {  # several weights may share one
            parameter
            for applied in self.applied.values()
            for one in applied.values()
            for parameter in one.parametrization.parameters()
        }
        sizes = part_sizes(self.backbone, without=codebooks)
        covered = weights_of(self.backbone, list(compressed))
        reached: Counter[str] = Counter()
        for target in covered:
            reached[target.part] += weight_of(self.backbone, target).numel()
        self.coverage_by_part[name] = {part: reached[part] / size for part, size in sizes.items()}
        touched = {t.modality for t in covered}
        self.untouched[name] = [m for m in self.backbone.modalities if m not in touched]
        self.coverage[name] = reached.total() / sum(sizes.values())

    def edit(
        self,
        name: str,
        target: Target,
        decision: Decision,
        statistics: Mapping[str, Statistic],
    ) -> None:
        """Carry out what a step has decided for one target.

        Args:
            name: of the step.
            target: of the backbone as it is now.
            decision: from `plan`.
            statistics: by target name; empty for weights that will be loaded afterwards.
        """
        step, model = self.steps[name], self.backbone.model
        module = model.get_submodule(target.module)
        new = step.apply(module, target.parameter, decision, step.statistic_for(target, statistics))
        if isinstance(step, ParametrizingStep):
            self.applied[name][target.name] = _parametrize(step, module, target.parameter, new)
        else:
            replace_module(model, target.module, new)


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
