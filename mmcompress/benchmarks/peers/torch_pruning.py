"""Torch-Pruning: attention heads and MLP units cut out, the module pickled as its README says."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmcompress.benchmarks.peers.base import Batches, Peer
from mmcompress.benchmarks.peers.towers import Towers
from mmcompress.functional.contrastive import contrastive_loss

FILE = "model.pth"
HALVINGS = 8
"""Of the interval in which the pruning ratio is searched."""
RESIDUAL = ("out_proj", "fc2", "embedding", "projection")
"""Layers whose outputs are the residual stream or the embedding, and stay."""


class TorchPruning(Peer):
    """`BasePruner` with Taylor importance on the calibration pairs, ranked over the whole model.

    Heads and MLP units are ranked apart (`isomorphic`), each pruned in the same ratio.

    Args:
        factor: how many times fewer parameters the whole model shall have.
    """

    library = "Torch-Pruning"
    packages = ("torch-pruning",)
    saved = "pickled module in float16"

    def __init__(self, factor: float, *, trained: bool = False) -> None:
        self.name = f"heads and MLP units, {factor:g}× fewer parameters"
        self.factor = factor
        self.trained = trained

    def prepare(self, towers: Towers, batches: Batches) -> None:
        self._before = {name: p.shape for name, p in towers.named_parameters()}
        parameters = _count(towers)
        gradients = _gradients(towers, batches)
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            trial = copy.deepcopy(towers)
            _prune(trial, gradients, batches, ratio)
            if parameters / _count(trial) < self.factor:
                low = ratio
            else:
                high = ratio
        _prune(towers, gradients, batches, high)

    def save(self, towers: Towers, batches: Batches, folder: Path) -> int:
        towers.zero_grad()
        torch.save(towers.half(), folder / FILE)
        after = {name: p.shape for name, p in towers.named_parameters()}
        return sum(s.numel() for name, s in self._before.items() if after[name] != s)

    def load(self, folder: Path, blank: Towers) -> Mapping[str, Callable[[Tensor], Tensor]]:
        towers = torch.load(folder / FILE, weights_only=False).float().eval()
        return {modality: getattr(towers, modality) for modality in Towers.modalities}


def _gradients(towers: Towers, batches: Batches) -> list[Tensor | None]:
    """Of the contrastive loss over all calibration pairs, one per parameter."""
    for batch in batches:
        first, second = (towers.encode(m, batch[m]) for m in Towers.modalities)
        contrastive_loss(first, second, towers.logit_scale).backward()
    gradients = [p.grad for p in towers.parameters()]
    towers.zero_grad()
    return gradients


def _prune(towers: Towers, gradients: list[Tensor | None], batches: Batches, ratio: float) -> None:
    import torch_pruning

    for parameter, gradient in zip(towers.parameters(), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    modules = dict(towers.named_modules())
    pruner = torch_pruning.pruner.BasePruner(
        towers,
        example_inputs={m: batches[0][m][:2] for m in Towers.modalities},
        forward_fn=lambda model, inputs: [getattr(model, m)(x) for m, x in inputs.items()],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=True,
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        prune_num_heads=True,
        prune_head_dims=False,
        num_heads={
            getattr(module, name): module.num_heads
            for module in modules.values()
            if hasattr(module, "num_heads")
            for name in ("q_proj", "k_proj", "v_proj")
        },
        ignored_layers=[
            module
            for name, module in modules.items()
            if name.endswith(RESIDUAL) or isinstance(module, nn.LayerNorm)
        ],
    )
    pruner.step()
    towers.zero_grad()


def _count(towers: Towers) -> int:
    return sum(p.numel() for p in towers.parameters())
