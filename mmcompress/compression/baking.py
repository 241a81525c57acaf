"""From parametrized weights to weights that are stored, one at a time."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from mmcompress.artifact.encoding import Encoding
from mmcompress.compression.base import Applied
from mmcompress.compression.steps import ParametrizingStep, Step


@dataclass
class _Part:
    """One weight that has left the model.

    Attributes:
        values: gives it.
        steps: name, method and parametrization of each step that has touched it.
    """

    values: parametrize.ParametrizationList
    steps: list[tuple[str, ParametrizingStep, nn.Module]] = field(default_factory=list)


class Baking(Mapping[str, Encoding]):
    """How to store each weight that some step has compressed, by target name.

    The model has these weights on the meta device from now on. Each is computed when its encoding
    is asked for, anew each time, and comes with it.

    Args:
        steps: by name.
        applied: their parametrizations, by step and target; every weight loses its own.
    """

    def __init__(
        self, steps: Mapping[str, Step], applied: Mapping[str, Mapping[str, Applied]]
    ) -> None:
        self._parts: dict[str, _Part] = {}
        for name, step in steps.items():
            for key, one in applied[name].items():
                if key not in self._parts:
                    module, parameter = one.module, one.parameter
                    parametrizations = cast(nn.ModuleDict, module.parametrizations)
                    values = cast(parametrize.ParametrizationList, parametrizations[parameter])
                    self._parts[key] = _Part(values)
                    parametrize.remove_parametrizations(module, parameter, leave_parametrized=False)
                    setattr(module, parameter, nn.Parameter(getattr(module, parameter).to("meta")))
                assert isinstance(step, ParametrizingStep)
                self._parts[key].steps.append((name, step, one.parametrization))

    @torch.no_grad()
    def __getitem__(self, key: str) -> Encoding:
        part = self._parts[key]
        weight = part.values() + 0.0  # −0 becomes +0
        encoding = Encoding(weight=weight)
        for name, step, parametrization in part.steps:
            found = step.finalize(parametrization, weight)
            encoding.steps.append(name)
            encoding.values = found.values or encoding.values
            encoding.tensors |= found.tensors
            encoding.mask = found.mask if found.mask is not None else encoding.mask
        return encoding

    def __contains__(self, key: object) -> bool:
        return key in self._parts  # that of `Mapping` would compute the weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def put_back(model: nn.Module, encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """Give the model the weights that come with their encodings; returns these without them."""
    found = {}
    for key, encoding in encodings.items():
        if encoding.weight is not None:
            path, _, parameter = key.rpartition(".")
            setattr(model.get_submodule(path), parameter, nn.Parameter(encoding.weight))
        found[key] = dataclasses.replace(encoding, weight=None)
    return found
