"""Which choice for which layer loses least within a byte budget, over all towers at once.

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
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcompress.artifact.dense import DenseSize
from mmcompress.backbones.base import Backbone
from mmcompress.compression.base import NothingCompressed
from mmcompress.compression.compressed import Compressed, Plan
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import Statistic
from mmcompress.search.budget import Budget, Choice, label
from mmcompress.search.groups import Group, bytes_outside, find_groups, stored_bytes, swapped
from mmcompress.search.knapsack import solve
from mmcompress.search.proxy_loss import ProxyLoss
from mmcompress.system.distributed import broadcast
from mmcompress.system.progress import progress

log = logging.getLogger(__name__)

TRIALS = 10

UNUSED = 200
"""A plan that leaves less than this fraction of the limit unused is taken as it is."""


def check(recipe: Recipe, budget: Budget, backbone: Backbone) -> None:
    """Refuse a recipe and a budget that cannot work, before any work is done.

    Raises:
        ValueError: see `Recipe.check` and `Budget.check`.
    """
    recipe.check(backbone, alternatives=budget.is_set)
    budget.check(recipe, backbone)


def search(
    recipe: Recipe, budget: Budget, backbone: Backbone, batches: Sequence[dict[str, Tensor]]
) -> tuple[Plan | None, dict[str, Any] | None]:
    """The plan that loses least within the budget, for `Recipe.apply`; and a report.

    Args:
        recipe: its steps are what there is to choose from.
        budget: to keep to.
        backbone: dense; left as it is.
        batches: calibration data, modality → preprocessed inputs.
    Returns:
        The plan; and JSON: the limit, the choices, and what each would store and lose in each
        group. Twice None where no budget is set: the recipe then decides by itself.
    Raises:
        ValueError: there are no calibration data, or no assignment is small enough.
    """
    if not budget.is_set:
        return None, None
    if not batches:
        raise ValueError(
            "compression needs calibration data for budget and there are none: give a train split "
            "that can be read, or set budget.ratio and budget.bytes to null"
        )
    return Search(recipe, budget, backbone, batches).run()


class Search:
    """One search: what stays the same while plans are tried.

    Args: of `search`.
    """

    def __init__(
        self,
        recipe: Recipe,
        budget: Budget,
        backbone: Backbone,
        batches: Sequence[dict[str, Tensor]],
    ) -> None:
        self.recipe, self.backbone, self.batches = recipe, backbone, batches
        self.limit, self.pairs = budget.limit(backbone), budget.pairs
        self.choices = budget.choices_of(recipe)
        self.groups = find_groups(recipe, backbone)
        self.dense = DenseSize.of(backbone.model)
        self.statistics: dict[str, Statistic] = {}
        """Of the dense model, which every choice begins with: collected once."""

    def run(self) -> tuple[Plan, dict[str, Any]]:
        plans = self._measure()
        self.groups = broadcast(self.groups)
        chosen = self._fit(plans)
        for group, index in zip(self.groups, chosen, strict=True):
            group.chosen = index
        report = {
            "limit": self.limit,
            "choices": [label(choice) for choice in self.choices],
            "groups": [asdict(group) for group in self.groups],
        }
        return self._merge(plans, chosen), report

    def _measure(self) -> list[Plan]:
        """The plan of every choice; bytes and losses go into the groups."""
        proxy = ProxyLoss(self.backbone, self.batches, self.pairs)
        probe = copy.deepcopy(self.backbone)
        plans: list[Plan] = []
        for choice in progress(self.choices, "measure choices"):
            made = self._apply(choice)
            plans.append(made.plan)
            encodings = made.finalize()
            for group in self.groups:
                group.bytes.append(
                    stored_bytes(made.backbone, group, encodings, self.recipe.dense_dtype)
                )
                with swapped(probe, made.backbone, group):
                    group.losses.append(proxy.loss(probe, group.modality))
        return plans

    def _apply(self, choice: Choice) -> Compressed:
        """One choice for all layers; a step too weak to change any leaves them dense."""
        varied, backbone = self.recipe.varied(choice), copy.deepcopy(self.backbone)
        try:
            return varied.apply(
                backbone, self.batches, dense=self.dense, statistics=self.statistics
            )
        except NothingCompressed as error:
            log.info("budget: a choice is dropped, %s", error)
            nothing: Plan = {name: {} for name in varied.steps}
            return varied.restore(copy.deepcopy(self.backbone), nothing, dense=self.dense)

    def _fit(self, plans: Sequence[Plan]) -> list[int]:
        """Solve, store on trial, move the goal by what the prediction missed, and again."""
        limit = self.limit
        goal = limit - bytes_outside(self.backbone, self.groups, self.recipe.dense_dtype)
        excesses: dict[tuple[int, ...], int] = {}
        fitting: list[int] | None = None
        for trial in range(TRIALS):
            chosen = solve(self.groups, goal, limit)
            key = tuple(chosen)
            if key in excesses and fitting:
                break
            if key not in excesses:
                excesses[key] = self._trial(self._merge(plans, chosen)) - limit
            excess = excesses[key]
            if excess <= 0 and (fitting is None or self._lost(chosen) < self._lost(fitting)):
                fitting = chosen
            if -limit // UNUSED <= excess <= 0:
                break
            # The error of the prediction moves with the plan: a little more room each time.
            goal -= excess + trial * limit // 5000
        if fitting is None:
            raise ValueError(
                f"budget: {len(excesses)} plans came out over {limit} bytes, the last by "
                f"{excess}: lower the ratio a little, or name other choices"
            )
        return fitting

    def _lost(self, chosen: Sequence[int]) -> float:
        return sum(g.losses[index] for g, index in zip(self.groups, chosen, strict=True))

    def _trial(self, plan: Plan) -> int:
        """Bytes of both files when the plan is carried out and stored as it is."""
        backbone = copy.deepcopy(self.backbone)
        made = self.recipe.apply(
            backbone, self.batches, plan, dense=self.dense, statistics=self.statistics
        )
        with tempfile.TemporaryDirectory() as folder:
            run = {"config_hash": "0" * 64, "recipe": "trial"}
            return broadcast(made.save(Path(folder) / "artifact", run=run).bytes)

    def _merge(self, plans: Sequence[Plan], chosen: Sequence[int]) -> Plan:
        return merge(plans, self.choices, self.groups, chosen, self.recipe)


def merge(
    plans: Sequence[Plan],
    choices: Sequence[Choice],
    groups: Sequence[Group],
    chosen: Sequence[int],
    recipe: Recipe,
) -> Plan:
    """One plan out of those of all choices: each group takes its decisions from its own choice."""
    merged: Plan = {name: {} for name in recipe.steps}
    for name in recipe.steps:
        for group, index in zip(groups, chosen, strict=True):
            choice, plan = choices[index], plans[index]
            if name in choice:
                merged[name] |= {k: d for k, d in plan[name].items() if group.holds(k)}
    return merged
