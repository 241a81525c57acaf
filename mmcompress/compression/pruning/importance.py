"""How important the structures of a module are: heads, MLP neurons, whole blocks.

* `magnitude`: the sum of its squared weights.
* `taylor`: Σ (g · w)² over its weights, the squared change of the loss when they vanish, to first
  order: "Importance Estimation for Neural Network Pruning", Molchanov et al. 2019,
  arXiv:1906.10771, equation 8; averaged over calibration batches.
* `activation`: the mean squared norm of what it adds to the output of its module, for a block to
  the residual stream: tr(W_S M W_Sᵀ) for its columns W_S and the second moment M of what they
  read. Of a single weight it is Wanda's score squared.

Biases do not count as weights of a structure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmcompress.backbones.anatomy import ATTENTIONS, MLPS
from mmcompress.backbones.base import Target
from mmcompress.compression.statistics import GRADIENTS, INPUTS, Statistic

Importance = Literal["magnitude", "taylor", "activation"]

NEEDS: dict[str, frozenset[str]] = {
    "magnitude": frozenset(),
    "taylor": frozenset({GRADIENTS}),
    "activation": frozenset({INPUTS}),
}

Factors = tuple[str, ...]
"""Names of the weights of a layer: its own, or those of U and Vᵀ."""


@dataclass(frozen=True)
class Members:
    """Where the structures of an attention or MLP lie.

    Attributes:
        inner: the layers that write them, each by its weight or by its U: a structure owns rows.
        out: the layer that reads them: a structure owns columns of its last factor.
    """

    inner: tuple[str, ...]
    out: Factors


def members(target: Target, weights: Mapping[str, Tensor]) -> Members:
    """The layers of an attention or MLP, by the names of their weights.

    Raises:
        ValueError: a projection is no linear layer, plain or of low rank.
    """
    if target.granularity == "attention":
        layers: Sequence[tuple[tuple[str, ...], str]] = [
            ((p.q, p.k, p.v), p.out) for p in ATTENTIONS
        ]
    else:
        layers = [((p.up,), p.down) for p in MLPS]
    for inner, last in layers:
        names = [
            f"{target.name}.{layer}{factor}.weight" for layer in inner for factor in ("", ".u")
        ]
        rows = tuple(name for name in names if name in weights)
        out = _factors(f"{target.name}.{last}", weights)
        if len(rows) == len(inner) and out:
            return Members(rows, out)
    raise ValueError(
        f"{target.name} holds a layer that is neither linear nor of low rank: remove structures "
        "before the step that put it there"
    )


def _factors(path: str, weights: Mapping[str, Tensor]) -> Factors:
    for names in [(f"{path}.weight",), (f"{path}.u.weight", f"{path}.v.weight")]:
        if all(name in weights for name in names):
            return names
    return ()


def importances(
    target: Target,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    kind: Importance,
) -> Tensor:
    """One importance per structure of a module.

    Args:
        target: an attention, an MLP or a stack.
        weights, statistics: of all weights inside, by name; statistics as `NEEDS` says.
        kind: which importance.
    Returns:
        (structures,), non-negative.
    """
    if target.granularity == "stack":
        return _of_blocks(target, weights, statistics, kind)
    found = members(target, weights)
    structures = target.heads or weights[found.out[-1]].shape[1]
    if kind == "activation":
        return _energies(found.out, weights, statistics, structures)
    sums = [_of_weights(n, weights, statistics, kind).sum(dim=1) for n in found.inner]
    sums.append(_of_weights(found.out[-1], weights, statistics, kind).sum(dim=0))
    return torch.stack([s.view(structures, -1).sum(dim=1) for s in sums]).sum(dim=0)


def _of_blocks(
    target: Target,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    kind: Importance,
) -> Tensor:
    inside: dict[int, list[str]] = {}
    for name in weights:
        if name.startswith(f"{target.name}."):
            index = int(name.removeprefix(f"{target.name}.").split(".")[0])
            inside.setdefault(index, []).append(name)
    scores = []
    for index in sorted(inside):
        if kind == "activation":
            outs = _writers(inside[index], weights)
            parts = [_energies(out, weights, statistics, 1).sum() for out in outs]
        else:
            parts = [_of_weights(n, weights, statistics, kind).sum() for n in inside[index]]
        scores.append(torch.stack(parts).sum())
    return torch.stack(scores)


def _writers(names: Sequence[str], weights: Mapping[str, Tensor]) -> Iterator[Factors]:
    """The layers of a block that write to the residual stream."""
    lasts = {p.out for p in ATTENTIONS} | {p.down for p in MLPS}
    for name in names:
        path = name.removesuffix(".weight").removesuffix(".u")
        if path.rpartition(".")[2] in lasts:
            yield _factors(path, weights)


def _of_weights(
    name: str,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    kind: Importance,
) -> Tensor:
    """Importance of each single weight (arXiv:1906.10771, equation 8, for `taylor`)."""
    squares = weights[name].square()
    if kind == "magnitude":
        return squares
    gradients = statistics[name].gradients
    assert gradients is not None
    return squares * gradients.squared


def _energies(
    out: Factors,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    structures: int,
) -> Tensor:
    inputs = statistics[out[-1]].inputs
    assert inputs is not None
    weight = weights[out[0]] if len(out) == 1 else weights[out[0]] @ weights[out[1]]
    return output_energies(weight, inputs.second_moment / inputs.tokens, structures)


def output_energies(weight: Tensor, moment: Tensor, structures: int) -> Tensor:
    """tr(W_S M_SS W_Sᵀ) of each structure S.

    Args:
        weight: (out, in).
        moment: second moment of the input, (in, in).
        structures: how many there are; each owns in / structures neighbouring columns.
    Returns:
        (structures,).
    """
    size = weight.shape[1] // structures
    columns = weight.view(len(weight), structures, size)  # out S d
    squares = moment.view(structures, size, structures, size).diagonal(dim1=0, dim2=2)  # d d S
    return torch.einsum("osd,des,ose->s", columns, squares, columns).clamp(min=0)
