"""What of a model may be compressed, counted: its card."""

from collections import Counter
from dataclasses import dataclass

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.parts import part_sizes, parts_of_tensors
from mmcompress.format.parts import in_order


@dataclass(frozen=True)
class CardRow:
    """Targets of one kind.

    Attributes:
        modality, role, granularity: as of `Target`.
        count: how many there are; of a weight that is used in several places one.
        parameters: of all of them together.
        part: of the model, as of `Target`.
    """

    modality: str
    role: str
    granularity: str
    count: int
    parameters: int
    part: str


@dataclass(frozen=True)
class PartRow:
    """One part of a model.

    Attributes:
        parameters: all of them.
        targets: those in weights that are targets.
        left: reason → the others.
    """

    parameters: int
    targets: int
    left: dict[str, int]


@dataclass(frozen=True)
class Card:
    """What of a model may be compressed.

    Attributes:
        parameters: of the whole model.
        weights: targets that are weights, in the order of the model.
        units: targets that are whole modules, whose parameters are among the above.
        left: reason → parameters in no weight of `weights`, the most first.
        parts: part of the model → its parameters, those that lie in weights that are targets, and
            why the others are not: reason → how many.
    """

    parameters: int
    weights: list[CardRow]
    units: list[CardRow]
    left: dict[str, int]
    parts: dict[str, PartRow]

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
    weights: dict[tuple[str, ...], list[int]] = {}
    for target in backbone.targets():
        if target.name in sizes:  # else it is another one's, by another name
            kind = (target.modality, target.role, target.granularity, target.part)
            weights.setdefault(kind, []).append(sizes[target.name])
    units: dict[tuple[str, ...], list[int]] = {}
    for unit in backbone.units():
        if unit.module:  # not the whole model
            module = backbone.model.get_submodule(unit.module)
            kind = (unit.modality, unit.role, unit.granularity, unit.part)
            units.setdefault(kind, []).append(sum(p.numel() for p in module.parameters()))
    rows = _rows(weights), _rows(units)
    return Card(sum(sizes.values()), *rows, dict(left.most_common()), parts_of(backbone))


def parts_of(backbone: Backbone) -> dict[str, PartRow]:
    """Of each part of a model how much are targets, in the order of reports."""
    sizes = {name: p.numel() for name, p in backbone.model.named_parameters()}
    places, remainder = parts_of_tensors(backbone, sizes), backbone.remainder()
    left: dict[str, Counter[str]] = {part: Counter() for part in places.values()}
    for name, reason in remainder.items():
        left[places[name]][reason] += sizes[name]
    total = part_sizes(backbone)
    return {
        part: PartRow(total[part], total[part] - left[part].total(), dict(left[part].most_common()))
        for part in sorted(total, key=in_order)
    }


def _rows(found: dict[tuple[str, ...], list[int]]) -> list[CardRow]:
    return [
        CardRow(modality, role, granularity, len(sizes), sum(sizes), part)
        for (modality, role, granularity, part), sizes in found.items()
    ]
