"""What steps must not do to one weight together."""

from torch import nn

from mmcompress.backbones.base import Target
from mmcompress.compression.steps import ValueStep


def check_trained_mask(name: str, step: ValueStep, target: Target) -> None:
    """A mask that is learnt from the weight's gradient, under a step that lets none through."""
    if not step.trains_weight:
        raise ValueError(
            f"step {name} trains parameters of its own in place of {target.name}, so no gradient "
            "reaches the mask that an earlier step learns: use magnitude or wanda, or separate "
            "them with selectors (modality, role)"
        )


def check_tied(target: Target, model: nn.Module) -> None:
    """Two modules that hold one weight; a module that stands in several places is no problem."""
    weight = getattr(model.get_submodule(target.module), target.parameter)
    twins = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is weight and (path, name) != (target.module, target.parameter)
    ]
    if twins:
        raise ValueError(
            f"{target.name} is tied to {', '.join(twins)} and compressing one would tear them "
            "apart: leave it out with a selector (modality, role)"
        )
