"""What of a model may be compressed, counted: its card."""

from collections import Counter
from dataclasses import dataclass

from mmcompress.backbones.base import Backbone


@dataclass(frozen=True)
class CardRow:
    """Targets of one kind.

    Attributes:
        modality, role, granularity: as of `Target`.
        count: how many there are; of a weight that is used in several places one.
        parameters: of all of them together.
    """

    modality: str
    role: str
    granularity: str
    count: int
    parameters: int


@dataclass(frozen=True)
class Card:
    """What of a model may be compressed.

    Attributes:
        parameters: of the whole model.
        weights: targets that are weights, in the order of the model.
        units: targets that are whole modules, whose parameters are among the above.
        left: reason → parameters in no weight of `weights`, the most first.
    """

    parameters: int
    weights: list[CardRow]
    units: list[CardRow]
    left: dict[str, int]

    @property
    def targets(self) -> int:
        """How many parameters lie in weights that are targets."""
        return sum(row.parameters for row in self.weights)


def card_of(backbone: Backbone) -> Card:
    """Count the targets of a model as it stands now, by tower and role."""
    sizes = {name: p.numel() for name, p in backbone.model.named_parameters()}
    left: Counter[str] = Counter()
    for name, reason in backbone.remainder().items():
        left[reason] += sizes[name]
    weights: dict[tuple[str, str, str], list[int]] = {}
    for target in backbone.targets():
        if target.name in sizes:  # else it is another one's, by another name
            kind = (target.modality, target.role, target.granularity)
            weights.setdefault(kind, []).append(sizes[target.name])
    units: dict[tuple[str, str, str], list[int]] = {}
    for unit in backbone.units():
        if unit.module:  # not the whole model
            module = backbone.model.get_submodule(unit.module)
            kind = (unit.modality, unit.role, unit.granularity)
            units.setdefault(kind, []).append(sum(p.numel() for p in module.parameters()))
    return Card(sum(sizes.values()), _rows(weights), _rows(units), dict(left.most_common()))


def _rows(found: dict[tuple[str, str, str], list[int]]) -> list[CardRow]:
    return [CardRow(*kind, len(sizes), sum(sizes)) for kind, sizes in found.items()]
