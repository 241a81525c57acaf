"""The weights that a target reaches: itself, or all that lie inside a module."""

from collections.abc import Sequence

from torch import Tensor

from mmcompress.backbones.base import Backbone, Target


def weight_of(backbone: Backbone, target: Target) -> Tensor:
    """The weight of a target, without its gradient."""
    return getattr(backbone.model.get_submodule(target.module), target.parameter).detach()


def weights_of(backbone: Backbone, targets: Sequence[Target]) -> list[Target]:
    """The targets that are weights, and the weights inside those that are modules."""
    modules = [t.module for t in targets if not t.parameter]
    prefixes = tuple(f"{module}." if module else "" for module in modules)
    names = {t.name for t in targets if t.parameter}
    return [
        t
        for t in backbone.targets()
        if t.name in names or (prefixes and t.name.startswith(prefixes))
    ]
