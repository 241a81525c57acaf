"""How important the structures of a module are: heads, MLP neurons, whole blocks.

* `magnitude`: the sum of its squared weights.
* `taylor`: Σ (g · w)² over its weights, the squared change of the loss when they vanish, to first
  order: "Importance Estimation for Neural Network Pruning", Molchanov et al. 2019,
  arXiv:1906.10771, equation 8; averaged over calibration batches.
* `activation`: the mean squared norm of what it adds to the output of its module, for a block to
  the residual stream: tr(W_S M W_Sᵀ) for its columns W_S and the second moment M of what they
  read. Of a single weight it is Wanda's score squared.
* `obs`: what is missing from that output once all other columns have made up for it by least
  squares, as `update` lets them: tr(W_S ([M⁻¹]_SS)⁻¹ W_Sᵀ), the saliency of a group of weights in
  "Optimal Brain Compression", Frantar & Alistarh 2022, arXiv:2208.11580. The paper removes one
  after another; `obs_keep` does so in a few rounds.

Biases do not count as weights of a structure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmcompress.backbones.base import Target
from mmcompress.compression.statistics import GRADIENTS, INPUTS, Statistic
from mmcompress.functional.hessian import damp
from mmcompress.modules.anatomy import ATTENTIONS, MLPS

Importance = Literal["magnitude", "taylor", "activation", "obs"]

NEEDS: dict[str, frozenset[str]] = {
    "magnitude": frozenset(),
    "taylor": frozenset({GRADIENTS}),
    "activation": frozenset({INPUTS}),
    "obs": frozenset({INPUTS}),
}

ROUNDS = 4
"""In how many rounds `obs_keep` removes structures."""

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

    Args:
        target: an attention or an MLP.
        weights: all weights inside it, by name.
    Raises:
        ValueError: a projection is no linear layer, plain or of low rank.
    """
    if target.granularity == "attention":
        layers: Sequence[tuple[tuple[str, ...], str]] = [
            ((p.q, p.k, p.v), p.out) for p in ATTENTIONS
        ]
    else:
        layers = [(p.inner, p.down) for p in MLPS]
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
    if kind in ("activation", "obs"):
        return _energies(found.out, weights, statistics, structures, kind)
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
        if kind in ("activation", "obs"):
            outs = _writers(inside[index], weights)
            parts = [_energies(out, weights, statistics, 1, kind).sum() for out in outs]
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
    return squares * statistics[name].needed_gradients.squared


def _energies(
    out: Factors,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    structures: int,
    kind: Importance,
) -> Tensor:
    weight, moment = _reader(out, weights, statistics)
    if kind == "activation":
        return output_energies(weight, diagonal_blocks(moment, structures))
    return obs_saliencies(weight.double(), damp(moment), structures).to(weight)


def _reader(
    out: Factors, weights: Mapping[str, Tensor], statistics: Mapping[str, Statistic]
) -> tuple[Tensor, Tensor]:
    """Weight of a layer, and the mean of x xᵀ over its inputs."""
    inputs = statistics[out[-1]].needed_inputs
    weight = weights[out[0]] if len(out) == 1 else weights[out[0]] @ weights[out[1]]
    return weight, inputs.second_moment / inputs.tokens


def obs_saliencies(weight: Tensor, hessian: Tensor, structures: int) -> Tensor:
    """tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ): what the output loses without S, however well the others adapt.

    Args:
        weight: (out, structures · d).
        hessian: (structures · d, structures · d), positive definite.
        structures: how many there are.
    Returns:
        (structures,).
    """
    inverses = diagonal_blocks(hessian.inverse(), structures)
    return output_energies(weight, inverses.inverse())


def obs_keep(weight: Tensor, moment: Tensor, structures: int, count: int) -> list[int]:
    """The structures that stay when those of least saliency go, a part of them in each round.

    Between two rounds the columns that are left are fitted to the output anew.

    Args:
        weight: (out, structures · d).
        moment: second moment of the input.
        structures: how many there are.
        count: how many stay.
    Returns:
        Their indices, ascending.
    """
    weight, hessian = weight.double(), damp(moment)
    size, kept = weight.shape[1] // structures, torch.arange(structures, device=weight.device)
    for turn in range(1, ROUNDS + 1):
        left = structures - round((structures - count) * turn / ROUNDS)
        columns = (kept[:, None] * size + torch.arange(size, device=kept.device)).flatten()
        inner = hessian[columns][:, columns]
        fitted = torch.linalg.solve(inner, (weight @ hessian[:, columns]).T).T
        saliencies = obs_saliencies(fitted, inner, len(kept))
        order = saliencies.argsort(descending=True, stable=True)
        kept = kept[order[:left].sort().values]
    return kept.tolist()


def chosen(
    target: Target,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Statistic],
    kind: Importance,
    scores: Tensor,
    count: int,
) -> list[int]:
    """Which structures of a module stay: the highest `scores`, or for `obs` round by round.

    Args:
        target, weights, statistics, kind: as in `importances`.
        scores: from there.
        count: how many stay.
    Returns:
        Their indices, ascending.
    """
    if kind == "obs" and target.granularity != "stack":
        weight, moment = _reader(members(target, weights).out, weights, statistics)
        return obs_keep(weight, moment, len(scores), count)
    return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())


def diagonal_blocks(matrix: Tensor, structures: int) -> Tensor:
    """The square blocks on the diagonal of a matrix, one for each structure.

    Args:
        matrix: (structures · d, structures · d).
        structures: how many there are.
    Returns:
        (structures, d, d).
    """
    size = len(matrix) // structures
    squares = matrix.reshape(structures, size, structures, size)
    return squares.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def output_energies(weight: Tensor, moments: Tensor) -> Tensor:
    """tr(W_S M_S W_Sᵀ) of each structure S, which owns neighboring columns.

    Args:
        weight: (out, structures · d).
        moments: M_S, (structures, d, d).
    Returns:
        (structures,).
    """
    columns = weight.unflatten(1, moments.shape[:2])  # out S d
    return torch.einsum("osd,sde,ose->s", columns, moments, columns).clamp(min=0)
