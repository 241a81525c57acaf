"""A byte budget: which choice for which layer loses least, over all towers at once.

Every choice is carried out on the whole model once. For each group of weights (a layer, or the
module that a structural step replaces) this gives the bytes that the choice would store and, with
that group alone swapped into the dense model, what the embeddings of calibration pairs lose. Losses
are taken to add up, which makes the assignment a multiple-choice knapsack; it is solved exactly as
a mixed-integer program by HiGHS (`scipy.optimize.milp`). The plan is then carried out and stored on
trial, and the limit moved by what the prediction missed, until the files fit.

The measure is that of an end metric and not of a layer: the distance of the embeddings and the
divergence of the similarity matrix (the two terms of `objective=distill`).
"""

import copy
import itertools
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track
from scipy.optimize import LinearConstraint, milp
from torch import Tensor

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import LEFT_DENSE, Decision, NothingCompressed
from mmcompress.search.groups import Group, bytes_outside, find_groups, stored_bytes, swapped
from mmcompress.search.proxy_loss import Yardstick
from mmcompress.system.distributed import broadcast

if TYPE_CHECKING:
    from mmcompress.compression.recipe import Plan, Recipe

log = logging.getLogger(__name__)

Choice = dict[str, dict[str, Any]]
"""Steps that run, with the arguments that differ from the recipe's; a step left out is skipped."""

TRIALS = 10

ROOM = 200
"""A plan that leaves less than this fraction of the limit unused is taken as it is."""


class Budget:
    """Find the assignment of choices to layers that loses least within a number of bytes.

    Args:
        ratio: dense bytes / stored bytes to reach, both files counted.
        bytes: instead of `ratio`, the size of both files.
        choices: what a layer may get, each as step → arguments that differ from the recipe's;
            steps that are not named do not run on that layer. None derives them: one choice per
            step when several steps would store the values of one weight, else every combination
            of the steps' ladders of strength. Leaving the layer dense is always a choice.
        pairs: calibration pairs that losses are measured on.
    """

    def __init__(
        self,
        *,
        ratio: float | None = None,
        bytes: int | None = None,
        choices: Sequence[Choice] | None = None,
        pairs: int = 128,
    ) -> None:
        if ratio is not None and bytes is not None:
            raise ValueError(
                f"compression.budget has ratio={ratio} and bytes={bytes}: set one, the other null"
            )
        if ratio is not None and ratio < 1:
            raise ValueError(
                f"compression.budget.ratio={ratio} must be at least 1: it is dense / stored bytes"
            )
        if bytes is not None and bytes < 1:
            raise ValueError(f"compression.budget.bytes={bytes} must be at least 1")
        if pairs < 2:
            raise ValueError(f"compression.budget.pairs={pairs} must be at least 2")
        self.ratio, self.bytes, self.pairs = ratio, bytes, pairs
        self.choices = choices
        self.limit = 0
        """The bytes that both files may take, after `search`."""
        self.groups: list[Group] = []
        self.labels: list[str] = []
        """Of the choices, after `search`."""

    @property
    def is_set(self) -> bool:
        """Whether there is anything to keep to."""
        return self.ratio is not None or self.bytes is not None

    def check(self, recipe: "Recipe", backbone: Backbone) -> None:
        """Refuse a budget that is too small whatever the steps do, before any is measured.

        Raises:
            ValueError: what the steps do not reach is larger than the budget.
        """
        limit = self._limit(backbone)
        beyond = bytes_outside(backbone, find_groups(recipe, backbone), recipe.dense_dtype)
        if beyond > limit:
            raise ValueError(
                f"compression.budget: {limit} bytes are allowed, and the steps "
                f"({', '.join(recipe.steps) or 'none'}) do not reach {beyond}: raise the budget, "
                "or choose a recipe that reaches more"
            )

    def _limit(self, backbone: Backbone) -> int:
        return self.bytes or int(dense_file_bytes(backbone.model) / (self.ratio or 1))

    def search(
        self, recipe: "Recipe", backbone: Backbone, batches: Sequence[dict[str, Tensor]]
    ) -> "Plan":
        """The plan that loses least within the budget.

        Args:
            recipe: its steps are what there is to choose from.
            backbone: dense; left as it is.
            batches: calibration data.
        Raises:
            ValueError: no assignment is small enough.
        """
        choices = self._choices(recipe)
        self.limit = self._limit(backbone)
        self.groups = find_groups(recipe, backbone)
        self.labels = [_label(choice) for choice in choices]
        yardstick = Yardstick(backbone, batches, self.pairs)
        probe = copy.deepcopy(backbone)
        plans: list[Plan] = []
        for choice in track(choices, description="measure choices", transient=True):
            varied = recipe.varied(choice)
            compressed = copy.deepcopy(backbone)
            plans.append(_apply(varied, compressed, batches))
            encodings = varied.finalize(compressed)
            for group in self.groups:
                group.bytes.append(stored_bytes(compressed, group, encodings, recipe.dense_dtype))
                with swapped(probe, compressed, group):
                    group.losses.append(yardstick.loss(probe, group.modality))
        self.groups = broadcast(self.groups)
        return self._fit(recipe, backbone, batches, plans, choices)

    def _fit(
        self,
        recipe: "Recipe",
        backbone: Backbone,
        batches: Sequence[dict[str, Tensor]],
        plans: Sequence["Plan"],
        choices: Sequence[Choice],
    ) -> "Plan":
        """Solve, store on trial, move the goal by what the prediction missed, and again."""
        limit = self.limit
        goal = limit - bytes_outside(backbone, self.groups, recipe.dense_dtype)
        excesses: dict[tuple[int, ...], int] = {}
        fitting: list[int] | None = None
        for trial in range(TRIALS):
            chosen = solve(self.groups, goal, limit)
            key = tuple(chosen)
            if key in excesses and fitting:
                break
            if key not in excesses:
                plan = merge(plans, choices, self.groups, chosen, recipe)
                excesses[key] = self._trial(recipe, backbone, batches, plan) - limit
            excess = excesses[key]
            if excess <= 0 and (fitting is None or self._lost(chosen) < self._lost(fitting)):
                fitting = chosen
            if -limit // ROOM <= excess <= 0:
                break
            # The error of the prediction moves with the plan: a little more room each time.
            goal -= excess + trial * limit // 5000
        if fitting is None:
            raise ValueError(
                f"compression.budget: {len(excesses)} plans came out over {limit} bytes, the last "
                f"by {excess}: lower the ratio a little, or name other choices"
            )
        for group, index in zip(self.groups, fitting, strict=True):
            group.chosen = index
        return merge(plans, choices, self.groups, fitting, recipe)

    def _lost(self, chosen: Sequence[int]) -> float:
        return sum(g.losses[index] for g, index in zip(self.groups, chosen, strict=True))

    def report(self) -> dict[str, Any]:
        """JSON: the limit, the choices, and what each would store and lose in each group."""
        groups = [asdict(group) for group in self.groups]
        return {"limit": self.limit, "choices": self.labels, "groups": groups}

    def _choices(self, recipe: "Recipe") -> list[Choice]:
        dense: list[Choice] = [{}]
        if self.choices is not None:
            unknown = {name for choice in self.choices for name in choice} - set(recipe.steps)
            if unknown:
                raise ValueError(
                    f"compression.budget.choices names {', '.join(sorted(unknown))}, and the "
                    f"recipe's steps are {', '.join(recipe.steps)}"
                )
            return dense + [choice for choice in self.choices if choice]
        values = [name for name, step in recipe.steps.items() if step.stage == "values"]
        others: Choice = {name: {} for name in recipe.steps if name not in values}
        if len(values) > 1:
            return dense + [others | {name: {}} for name in values]
        return dense + list(ladders(recipe))

    def _trial(
        self,
        recipe: "Recipe",
        backbone: Backbone,
        batches: Sequence[dict[str, Tensor]],
        plan: "Plan",
    ) -> int:
        """Bytes of both files when the plan is carried out and stored as it is."""
        trial = recipe.varied({name: {} for name in recipe.steps})
        compressed = copy.deepcopy(backbone)
        trial.carry_out(compressed, batches, plan)
        encodings = trial.finalize(compressed)
        with tempfile.TemporaryDirectory() as folder:
            artifact = Artifact.save(
                Path(folder) / "artifact",
                compressed,
                structure=trial.structure(),
                encodings=encodings,
                reasons=trial.reasons(),
                dense_bytes=dense_file_bytes(backbone.model),
                dense_parameters=sum(p.numel() for p in backbone.parameters()),
                dense_dtype=recipe.dense_dtype,
                run={"config_hash": "0" * 64, "recipe": "trial"},
            )
            return broadcast(artifact.bytes)


def _apply(recipe: "Recipe", backbone: Backbone, batches: Sequence[dict[str, Tensor]]) -> "Plan":
    """The plan of one choice for all layers; a step too weak to change any leaves them dense."""
    if not recipe.steps:
        return {}
    try:
        recipe.check(backbone)
        return recipe.carry_out(backbone, batches)
    except NothingCompressed as error:
        log.info("budget: a choice is dropped, %s", error)
        return {name: {} for name in recipe.steps}


def ladders(recipe: "Recipe") -> Iterator[Choice]:
    """Every combination of the strengths that the steps' classes name."""
    rungs: list[list[tuple[str, dict[str, Any]]]] = []
    for name, step in recipe.steps.items():
        names, values = list(step.ladder), itertools.product(*step.ladder.values())
        rungs.append([(name, dict(zip(names, value, strict=True))) for value in values])
    for combination in itertools.product(*rungs):
        yield dict(combination)


def solve(groups: Sequence[Group], goal: int, limit: int) -> list[int]:
    """The choice of each group: least total loss, at most `goal` bytes, exactly.

    Args:
        groups: with bytes and losses.
        goal: bytes for all groups together.
        limit: of the whole artifact, for the message.
    Raises:
        ValueError: even the smallest choices are too large.
    """
    smallest = sum(min(group.bytes) for group in groups)
    if smallest > goal:
        raise ValueError(
            f"compression.budget: the smallest choices take {smallest - goal} bytes more than the "
            f"{limit} allowed: raise the budget, add stronger choices, or set dense_dtype=float16"
        )
    counts = [len(group.bytes) for group in groups]
    losses = np.concatenate([group.losses for group in groups])
    sizes = np.concatenate([group.bytes for group in groups])
    one_each = np.zeros((len(groups), len(losses)))
    ends = np.cumsum(counts)
    for row, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
        one_each[row, start:end] = 1
    found = milp(
        losses,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(sizes[None], ub=goal)],
        integrality=np.ones(len(losses)),
        bounds=(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    assert found.x is not None, found.message
    return [int(np.argmax(found.x[end - n : end])) for n, end in zip(counts, ends, strict=True)]


def merge(
    plans: Sequence["Plan"],
    choices: Sequence[Choice],
    groups: Sequence[Group],
    chosen: Sequence[int],
    recipe: "Recipe",
) -> "Plan":
    """One plan out of those of all choices: each group takes its decisions from its own choice."""
    merged: Plan = {name: {} for name in recipe.steps}
    for name in recipe.steps:
        for group, index in zip(groups, chosen, strict=True):
            choice, plan = choices[index], plans[index]
            if name in choice:
                merged[name] |= {k: d for k, d in plan[name].items() if group.holds(k)}
    return merged


def left_out(decisions: Mapping[str, Decision], targets: Sequence[Target]) -> dict[str, Decision]:
    """Decisions for all targets: what the budget gave another choice is left as it is."""
    elsewhere: Decision = {LEFT_DENSE: "the budget chose otherwise"}
    return {target.name: decisions.get(target.name, elsewhere) for target in targets}


def _label(choice: Choice) -> str:
    steps = [
        " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in arguments.items())])
        for name, arguments in choice.items()
    ]
    return " + ".join(steps) or "dense"
