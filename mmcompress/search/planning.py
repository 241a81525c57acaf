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
from collections.abc import Callable, Sequence
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
from mmcompress.search.proxy_loss import proxy_loss
from mmcompress.system.distributed import broadcast
from mmcompress.system.progress import progress

log = logging.getLogger(__name__)

TRIALS = 10

FINISHED = 4
"""Times that a model is made and finished, before its budget is given up."""

Finish = Callable[[Compressed], object]

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
    return _started(recipe, budget, backbone, batches).run()


def compress_within(
    recipe: Recipe,
    budget: Budget,
    backbone: Backbone,
    batches: Sequence[dict[str, Tensor]],
    *,
    finish: Finish | None = None,
) -> tuple[Compressed, dict[str, Any] | None]:
    """What the recipe makes of the backbone, within the budget; and the report of `search`.

    What finishes a model, such as reconstruction, may change how many bytes its weights take. Where
    it then is over the limit, the search leaves as many bytes unused as that has cost, and the
    model is made and finished again.

    Args:
        recipe, budget, batches: as for `search`.
        backbone: dense. It is edited in place, unless there is a budget to be kept to and something
            to finish: then it is left as it is.
        finish: changes what the recipe has made, in place.
    Raises:
        ValueError: see `search` and `Recipe.apply`; or the finished model is over the limit however
            much is left for it.
    """
    if finish is None or not budget.is_set:
        plan, report = search(recipe, budget, backbone, batches)
        compressed = recipe.apply(backbone, batches, plan)
        if finish is not None:
            finish(compressed)
        return compressed, report
    return _started(recipe, budget, backbone, batches).finished(finish)


def _started(
    recipe: Recipe, budget: Budget, backbone: Backbone, batches: Sequence[dict[str, Tensor]]
) -> "Search":
    if not batches:
        raise ValueError(
            "compression needs calibration data for budget and there are none: give a train split "
            "that can be read, or set budget.ratio and budget.bytes to null"
        )
    return Search(recipe, budget, backbone, batches)


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
        self.stored: dict[tuple[int, ...], int] = {}
        """Bytes of every plan that has been tried, by the choice of each group."""

    def run(self) -> tuple[Plan, dict[str, Any]]:
        plans = self._measure()
        chosen = self._fit(plans, self.limit)
        return self._merge(plans, chosen), self._report(chosen)

    def finished(self, finish: Finish) -> tuple[Compressed, dict[str, Any]]:
        """See `compress_within`."""
        plans, reserve = self._measure(), 0
        for _ in range(FINISHED):
            chosen = self._fit(plans, self.limit - reserve)
            made = self._made(self._merge(plans, chosen))
            finish(made)
            size = stored_size(self._copy(made))
            if size <= self.limit:
                return made, self._report(chosen)
            # It grows anew each time: what is over says that it is more than was left for it.
            growth = size - self.stored[tuple(chosen)]
            reserve = growth + growth // 10
            log.info(
                "budget: %d bytes over after reconstruction, which added %d",
                size - self.limit,
                growth,
            )
        raise ValueError(
            f"budget: {FINISHED} models were over {self.limit} bytes once they were reconstructed, "
            f"the last by {size - self.limit}: lower the ratio a little, or set reconstruction=none"
        )

    def _report(self, chosen: Sequence[int]) -> dict[str, Any]:
        for group, index in zip(self.groups, chosen, strict=True):
            group.chosen = index
        return {
            "limit": self.limit,
            "choices": [label(choice) for choice in self.choices],
            "groups": [asdict(group) for group in self.groups],
        }

    def _measure(self) -> list[Plan]:
        """The plan of every choice; bytes and losses go into the groups."""
        proxy = proxy_loss(self.backbone, self.batches, self.pairs)
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
                if not choice:  # what rounding to float16 does is far below any other loss
                    group.losses.append(0.0)
                    continue
                with swapped(probe, made.backbone, group):
                    group.losses.append(proxy.loss(probe, group.modality, group.name))
        self.groups = broadcast(self.groups)
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

    def _fit(self, plans: Sequence[Plan], limit: int) -> list[int]:
        """Solve, store on trial, move the goal by what the prediction missed, and again."""
        goal = limit - bytes_outside(self.backbone, self.groups, self.recipe.dense_dtype)
        tried: set[tuple[int, ...]] = set()
        fitting: list[int] | None = None
        for trial in range(TRIALS):
            chosen = solve(self.groups, goal, limit)
            key = tuple(chosen)
            if key in tried and fitting:
                break
            tried.add(key)
            if key not in self.stored:
                self.stored[key] = self._trial(self._merge(plans, chosen))
            excess = self.stored[key] - limit
            if excess <= 0 and (fitting is None or self._lost(chosen) < self._lost(fitting)):
                fitting = chosen
            if -limit // UNUSED <= excess <= 0:
                break
            # The error of the prediction moves with the plan: a little more room each time.
            goal -= excess + trial * limit // 5000
        if fitting is None:
            raise ValueError(
                f"budget: {len(tried)} plans came out over {limit} bytes, the last by "
                f"{excess}: lower the ratio a little, or name other choices"
            )
        return fitting

    def _lost(self, chosen: Sequence[int]) -> float:
        return sum(g.losses[index] for g, index in zip(self.groups, chosen, strict=True))

    def _trial(self, plan: Plan) -> int:
        """Bytes of both files when the plan is carried out and stored as it is."""
        return stored_size(self._made(plan))

    def _made(self, plan: Plan) -> Compressed:
        backbone = copy.deepcopy(self.backbone)
        return self.recipe.apply(
            backbone, self.batches, plan, dense=self.dense, statistics=self.statistics
        )

    def _copy(self, made: Compressed) -> Compressed:
        """The same once more, to be baked; what made it has parametrized classes of its own."""
        backbone = copy.deepcopy(self.backbone)
        copied = self.recipe.restore(backbone, made.plan, dense=self.dense)
        backbone.load_state_dict(made.backbone.state_dict())
        return copied

    def _merge(self, plans: Sequence[Plan], chosen: Sequence[int]) -> Plan:
        return merge(plans, self.choices, self.groups, chosen, self.recipe)


def stored_size(compressed: Compressed) -> int:
    """Bytes of both files of a model when it is stored, which bakes it."""
    with tempfile.TemporaryDirectory() as folder:
        run = {"config_hash": "0" * 64, "recipe": "trial"}
        return broadcast(compressed.save(Path(folder) / "artifact", run=run).bytes)


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
