"""Sharing between towers: block i of one and block j of the other read the same weights.

"Learning Visual Representation from Modality-Shared Contrastive Language-Image Pre-training", You
et al. 2022, arXiv:2207.12661, section 3: one transformer serves images and text, and layer norms
stay with each modality, for the statistics of its tokens differ. Where we differ: the towers are
already trained, so weights start from the mean of a pair or from one tower's; widths may agree in
part of the layers only; and the paper's early specialization and parallel branches are left out.

Two trained towers have nothing in common at first, so this wants training.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE, Decision
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import StructureStep
from mmcompress.modules.shared import INITIALS, Initial, share_towers

TRANSFORMS = ("norms", "scale")
ALIGNMENTS = ("first", "last")

Blocks = dict[int, dict[str, tuple[int, ...]]]
"""Block → path of a layer inside it → shape of its weight."""


def find_blocks(weights: Mapping[str, Tensor]) -> dict[str, Blocks]:
    """What lies under a number in a path, by the path before the number.

    Example:
        >>> import torch
        >>> find_blocks({"a.layers.0.fc.weight": torch.zeros(2, 3), "proj.weight": torch.zeros(1)})
        {'a.layers': {0: {'fc': (2, 3)}}}
    """
    found: dict[str, Blocks] = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)\.weight", name)
        if match:
            block = found.setdefault(match[1], {}).setdefault(int(match[2]), {})
            block[match[3]] = tuple(weight.shape)
    return found


class CrossTower(StructureStep):
    """Two towers whose blocks share linear layers, as far as the shapes agree.

    The only target is the whole model.

    Args:
        transform: what each tower keeps for itself: its `norms`; or norms, and a scale per channel
            and a bias for each linear layer (`scale`). Legal: `norms` or `scale`.
        initial: the shared weights start from the `mean` of a pair, or from the tower that comes
            `first` in the model. Legal: `mean` or `first`.
        align: towers of unequal depth are paired from their `first` or from their `last` blocks.
            Legal: `first` or `last`.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    edit = ("share_towers", 1)
    granularities = ("model",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {}
    no_speedup = "shared layers are computed once in every place"

    def __init__(
        self,
        *,
        transform: Literal["norms", "scale"] = "norms",
        initial: Initial = "mean",
        align: Literal["first", "last"] = "first",
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        for name, value, known in [
            ("transform", transform, TRANSFORMS),
            ("initial", initial, INITIALS),
            ("align", align, ALIGNMENTS),
        ]:
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")
        self.transform: Literal["norms", "scale"] = transform
        self.initial: Initial = initial
        self.align = align

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {target.name: self._decide(find_blocks(weights)) for target in targets}

    def _decide(self, stacks: Mapping[str, Blocks]) -> Decision:
        if len(stacks) != 2:
            return {LEFT_DENSE: f"it has {len(stacks)} stacks of blocks, and two would be shared"}
        first, second = stacks.values()
        left, right = sorted(first), sorted(second)
        depth = min(len(left), len(right))
        if self.align == "last":
            left, right = left[-depth:], right[-depth:]
        pairs = [list(pair) for pair in zip(left, right, strict=False)]
        layers = [
            path
            for path, shape in first[pairs[0][0]].items()
            if all(first[i].get(path) == second[j].get(path) == shape for i, j in pairs)
        ]
        if not layers:
            return {LEFT_DENSE: "its towers have no layer of one shape in all pairs of blocks"}
        return {
            "stacks": list(stacks),
            "pairs": pairs,
            "layers": layers,
            "transform": self.transform,
            "initial": self.initial,
        }

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        return share_towers(module, **decision)
