"""What all methods have in common that keep the weights with the highest scores."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, WITHOUT_MOMENT, Target
from mmcompress.compression.base import Applied, Decision, as_matrix
from mmcompress.compression.modality_balance import inputs_for
from mmcompress.compression.pruning.allocation import ALLOCATIONS, Allocation, allocate
from mmcompress.compression.pruning.masks import Mask, parse_pattern
from mmcompress.compression.pruning.schedule import Kind, Schedule
from mmcompress.compression.statistics import INPUTS, LOSS_CHANGE, InputStatistic, Statistic
from mmcompress.compression.steps import FollowsSchedule, MaskStep

Comparison = Literal["tensor", "row"]


class ScoredPruning(MaskStep[Mask], FollowsSchedule):
    """Weights of which those of lowest score are zero, W ⊙ M; a subclass says what the score is.

    Args:
        sparsity: share of the selected weights that become zero. Legal: number in (0, 1).
        pattern: `N:M` keeps at most N of M neighbors in a row and fixes the sparsity at 1 − N/M;
            null for zeros anywhere. Legal: `N:M` with 0 < N < M, or null.
        allocation: how the sparsity is spread over the layers: the same for each (`uniform`), by
            one threshold for all (`global`) or for each tower (`modality`), or by how much the loss
            depends on a block (`ecoflap`). Legal: `uniform`, `global`, `modality` or `ecoflap`.
        max_sparsity: the most that `ecoflap` takes from a block; null for `sparsity` + 0.1. Legal:
            number in [sparsity, 1], or null.
        compare: scores are compared within a `row` or across the `tensor`; null for the method's
            own way. Legal: `row`, `tensor` or null.
        schedule: `one_shot` prunes before training, `cubic` while training. Legal: `one_shot` or
            `cubic`.
        begin: where the cubic ramp begins, as a share of training. Legal: number in [0, end).
        end: where it ends, as a share of training. Legal: number in (begin, 1].
        updates: how often the cubic ramp moves the masks. Legal: whole number of at least 1.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"sparsity": (0.3, 0.5, 0.7, 0.8, 0.9)}
    no_speedup = "unstructured mask, dense kernels do the same work"

    compares: ClassVar[Comparison] = "tensor"
    """The method's own way to compare scores."""

    reads_inputs: ClassVar[bool] = False
    """Whether the score is made of input statistics. Embeddings and bare parameters have none that
    say which of their weights matter, and are pruned by magnitude across the tensor."""

    def __init__(
        self,
        *,
        sparsity: float,
        pattern: str | None = None,
        allocation: Allocation = "uniform",
        max_sparsity: float | None = None,
        compare: Comparison | None = None,
        schedule: Kind = "one_shot",
        begin: float = 0.0,
        end: float = 0.5,
        updates: int = 20,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        _check(sparsity, pattern, allocation, max_sparsity)
        self.sparsity = sparsity
        self.pattern = pattern
        self.allocation: Allocation = allocation
        self.max_sparsity = max_sparsity
        if compare not in (None, *get_args(Comparison)):
            raise ValueError(f"compare={compare!r} must be row, tensor or null")
        self.compare = compare
        self.schedule = schedule
        self.begin, self.end, self.updates = begin, end, updates
        self._schedule = Schedule(schedule, begin=begin, end=end, updates=updates)
        needs = {INPUTS: self.reads_inputs, LOSS_CHANGE: allocation == "ecoflap"}
        self.needs = frozenset(need for need, wanted in needs.items() if wanted)

    def check(self, target: Target, weight: Tensor) -> None:
        if self.pattern is None:
            return
        _, size = parse_pattern(self.pattern)
        columns = as_matrix(weight).shape[1]
        if columns % size:
            raise ValueError(
                f"pattern={self.pattern} does not fit the {columns} columns of {target.name}: "
                "leave it out with a selector (role, granularity), or choose an M that divides them"
            )

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        counts = allocate(
            targets,
            weights,
            statistics,
            sparsity=self.sparsity,
            allocation=self.allocation,
            max_sparsity=self.max_sparsity,
        )
        return {
            t.name: self._decide(t, counts[t.name], as_matrix(weights[t.name])) for t in targets
        }

    def _decide(self, target: Target, count: int, matrix: Tensor) -> Decision:
        rows, columns = matrix.shape
        scaled = self.reads_inputs and target.granularity not in WITHOUT_MOMENT
        decision: Decision = {"pruned": count, "group_size": None}
        if self.pattern is not None:
            kept, size = parse_pattern(self.pattern)
            decision = {"pruned": size - kept, "group_size": size}
        elif (self.compare or self.compares) == "row" and scaled == self.reads_inputs:
            decision = {"pruned": round(count / rows), "group_size": columns}
        return decision | {"scaled": scaled, "one_shot": self.schedule == "one_shot"}

    @classmethod
    def scales(cls, weight: Tensor, statistic: InputStatistic) -> tuple[Tensor, Tensor]:
        """What magnitudes are multiplied by to give scores.

        Args:
            weight: (rows, columns).
            statistic: of its inputs.
        Returns:
            The factor of each row (rows,), and of each column (columns,).
        """
        raise TypeError(f"{cls.__name__} reads no inputs")

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> Mask:
        weight = getattr(module, parameter).detach()
        mask = Mask(weight, decision["pruned"], group_size=decision["group_size"])
        if decision["scaled"] and statistic is not None:
            mask.set_scales(*cls.scales(as_matrix(weight), inputs_for(statistic, decision)))
        elif decision["scaled"]:  # a checkpoint will fill them
            matrix = as_matrix(weight)
            mask.set_scales(torch.ones_like(matrix[:, 0]), torch.ones_like(matrix[0]))
        if decision["one_shot"]:
            mask.prune(weight)
            mask.set_scales(None, None)
        return mask

    def on_step(self, applied: Mapping[str, Applied[Mask]], progress: float) -> None:
        share = self._schedule.due(progress)
        if share is None:
            return
        for one in applied.values():
            one.parametrization.follow_schedule(one.original.detach(), share)

    def finalize(self, parametrization: Mask, weight: Tensor) -> Encoding:
        return Encoding(mask=parametrization.mask)


def _check(
    sparsity: float, pattern: str | None, allocation: str, max_sparsity: float | None
) -> None:
    if not 0 < sparsity < 1:
        raise ValueError(
            f"sparsity={sparsity} must lie between 0 and 1, both excluded: 0 prunes nothing "
            "and 1 leaves no weight"
        )
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation={allocation!r} must be one of {', '.join(ALLOCATIONS)}")
    if max_sparsity is not None and not sparsity <= max_sparsity <= 1:
        raise ValueError(
            f"max_sparsity={max_sparsity} must lie between sparsity={sparsity} and 1: blocks that "
            "may lose no more cannot reach it together"
        )
    if pattern is None:
        return
    kept, size = parse_pattern(pattern)
    if abs(sparsity - (1 - kept / size)) > 1e-3:
        raise ValueError(
            f"pattern={pattern} fixes the sparsity: set sparsity={1 - kept / size:.4g}, or "
            "pattern=null"
        )
    if allocation != "uniform":
        raise ValueError(
            f"pattern={pattern} gives every layer the same sparsity: set allocation=uniform"
        )
