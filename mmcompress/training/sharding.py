"""Weights, gradients and optimizer states split over processes while training: PyTorch's FSDP2.

FSDP1, Lightning's `strategy=fsdp`, is refused: it puts wrappers between the modules, so that the
paths of a plan lead nowhere. FSDP2 leaves modules where they are, parametrized ones too.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from mmcompress.backbones.base import Backbone
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import AddsPenalty
from mmcompress.modules.anatomy import find_stacks


class FullySharded(ModelParallelStrategy):
    """One model over all processes of the run, for `CompressionModule`.

    Args:
        timeout: how long a process waits for another.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        """Called for the processes alone first, and again when there is a module."""
        if self.lightning_module is None:
            self._setup_distributed()
            return
        self._data_parallel_size = self.world_size
        super().setup_environment()


def shard(module: pl.LightningModule, compressed: Compressed, mesh: DeviceMesh) -> None:
    """Split what `module` trains over the processes of `mesh`; its steps see whole weights.

    A block of a transformer is whole while it runs, whatever lies outside blocks during the whole
    step, and so are blocks that share weights.

    Raises:
        ValueError: a step of the recipe has a penalty, which reads weights between blocks' turns.
    """
    for name, step in compressed.steps.items():
        penalty = step.penalty(compressed.applied[name]) if isinstance(step, AddsPenalty) else 0.0
        if isinstance(penalty, Tensor):
            raise ValueError(
                f"step {name} adds a penalty on its weights to the loss, which trainer=fsdp cannot "
                "compute: choose trainer=ddp, or set the penalty's weight to 0"
            )
    for owner in list(module.modules()):
        for name, parameter in owner._parameters.items():
            if parameter is not None and parameter.ndim == 0:  # a scalar cannot be split
                one = nn.Parameter(parameter.detach().view(1), parameter.requires_grad)
                owner._parameters[name] = one
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for method in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, method)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Blocks that share no weight with others, and stand in one place."""
    blocks = [block for _, stack in find_stacks(module) for block in stack]
    holders = Counter(p for block in blocks for p in set(block.parameters()))
    return [b for b in blocks if all(holders[p] == 1 for p in b.parameters())]


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Between steps: weights can be read, and not written, as if they were not split."""
    sharded = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for one in sharded:
        one.unshard()
    yield
    for one in sharded:
        one.reshard()


def unsharded(compressed: Compressed, dense: Backbone) -> Compressed:
    """The trained model in one piece in the first process; every process has to call it.

    Args:
        compressed: as trained; when it was not split, it is what is returned.
        dense: what it was made from.
    """
    backbone = compressed.backbone
    if not any(isinstance(p, DTensor) for p in backbone.parameters()):
        return compressed
    state = {}
    for name, tensor in backbone.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if dist.get_rank() == 0:
            state[name] = whole.cpu()
    if not state:
        return compressed
    fresh = copy.deepcopy(dense).cpu()
    restored = Recipe(compressed.steps, dense_dtype=compressed.dense_dtype).restore(
        fresh, compressed.plan
    )
    fresh.load_state_dict(state)
    return restored
