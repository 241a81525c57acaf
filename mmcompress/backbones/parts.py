"""Which part of a model each parameter belongs to."""

import re
from collections import Counter
from collections.abc import Collection, Iterable

from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.format.parts import usual_part

PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original$")


def parts_of_tensors(backbone: Backbone, names: Iterable[str]) -> dict[str, str]:
    """Name → part; a bias lies where its layer's weight does.

    Args:
        backbone: as it stands now.
        names: of parameters and buffers of its model.
    """
    targets = {target.name: target.part for target in backbone.targets()}
    found = {}
    for name in names:
        plain = PARAMETRIZED.sub(r"\1", name)
        weight = f"{plain.rpartition('.')[0]}.weight"
        of_layer = targets.get(plain) or targets.get(weight) or backbone.part_of(plain)
        found[name] = of_layer or usual_part(backbone.modality_of(plain), "")
    return found


def part_sizes(backbone: Backbone, *, without: Collection[Tensor] = ()) -> Counter[str]:
    """Parameters of each part.

    Args:
        without: parameters that do not count.
    """
    left_out = {id(parameter) for parameter in without}
    parameters = dict(backbone.model.named_parameters())
    parts, sizes = parts_of_tensors(backbone, parameters), Counter[str]()
    for name, parameter in parameters.items():
        if id(parameter) not in left_out:
            sizes[parts[name]] += parameter.numel()
    return sizes
