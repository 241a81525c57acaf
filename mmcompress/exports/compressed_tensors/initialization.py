"""Which layers transformers asks for their `weight` once a checkpoint is loaded.

It then draws what the checkpoint did not hold, and code of some models (SigLIP, CLAP, all
embeddings) reads `weight` to find out. A layer whose integers are packed has none, and the model
could not be loaded.
"""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel


def empty_like(native: PreTrainedModel) -> PreTrainedModel:
    """The model that `from_pretrained` makes of the same config, without values."""
    with torch.device("meta"):
        return type(native)(native.config)


def looked_for(native: PreTrainedModel) -> set[str]:
    """Linear layers and embeddings that must have a `weight`, by name; tried on an empty model."""
    empty = empty_like(native)
    found = set()
    for path, layer in empty.named_modules():
        weight = layer._parameters.get("weight")
        if weight is None or not isinstance(layer, nn.Linear | nn.Embedding):
            continue
        del layer._parameters["weight"]
        try:
            for owner, module in _around(empty, path):
                owner._init_weights(module)
        except AttributeError:
            found.add(path)
        finally:
            layer._parameters["weight"] = weight
    return found


def _around(model: PreTrainedModel, path: str) -> Iterator[tuple[PreTrainedModel, nn.Module]]:
    """A layer and the modules it lies in, each with the model whose code initializes it."""
    owner, module = model, model
    yield owner, module
    for name in path.split("."):
        module = module.get_submodule(name)  # type: ignore[assignment]
        owner = module if isinstance(module, PreTrainedModel) else owner
        yield owner, module
