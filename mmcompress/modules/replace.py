"""Putting a module in the place of another."""

from torch import nn


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Let `new` take the place of the module at `path`, in every place that shares that module.

    Args:
        path: dotted; the empty path is the model itself, which can only be edited in place.
    """
    old = model.get_submodule(path)
    if old is new:
        return
    assert path, "an edit of the whole model is made in place"
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
