"""Block-wise reconstruction: each compressed block learns to give what the dense block gave.

A post-training step that needs calibration inputs and no labels: "BRECQ: Pushing the Limit of
Post-Training Quantization by Block Reconstruction", Li et al. 2021, arXiv:2102.05426. Where we
differ: whatever the block's parametrizations leave trainable is trained (weights under a straight
through estimator, steps, codebooks, factors, norms), not a rounding alone; and the error is not
weighted by the Fisher information.
"""

import copy
import logging
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.backbones.base import Backbone
from mmcompress.compression.calls import Call, block_calls, paired_stacks
from mmcompress.compression.compressed import Compressed
from mmcompress.system.progress import progress

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class Reconstruction:
    """Blocks that give what the dense model's blocks give, trained one after another.

    Args:
        steps: of the optimizer, per block. Legal: whole number of at least 1.
        lr: learning rate of AdamW; it falls to zero along a line. Legal: number above 0.
        batch_size: calibration inputs per step. Legal: whole number of at least 1.
        inputs: what a block sees: the output of the `compressed` blocks before it, so that it makes
            up for their error too; or that of the `dense` blocks. Legal: `compressed` or `dense`.
        seed: draws the order of the batches. Legal: whole number.
    """

    def __init__(
        self,
        *,
        steps: int = 200,
        lr: float = 5e-4,
        batch_size: int = 64,
        inputs: Literal["compressed", "dense"] = "compressed",
        seed: int = 0,
    ) -> None:
        for name, value in {"steps": steps, "lr": lr, "batch_size": batch_size}.items():
            if value <= 0:
                raise ValueError(f"reconstruction.{name}={value} must be above 0")
        if inputs not in ("compressed", "dense"):
            raise ValueError(f"reconstruction.inputs={inputs!r} must be compressed or dense")
        self.steps, self.lr, self.batch_size = steps, lr, batch_size
        self.inputs, self.seed = inputs, seed

    def __call__(
        self, compressed: Compressed, dense: Backbone, batches: Sequence[Batch]
    ) -> dict[str, tuple[float, float]]:
        """Train every block of every tower whose weights the recipe has compressed.

        Args:
            compressed: its backbone is edited in place, its schedules are set to their end.
            dense: as it was before.
            batches: calibration data.
        Returns:
            By path of the block: relative squared error of its output, before and after.
        Raises:
            ValueError: blocks were removed or are shared, so that there is no dense block for each.
        """
        compressed.on_step(1.0)
        backbone = compressed.backbone
        fix = "set reconstruction=none"
        pairs = list(
            paired_stacks(backbone, dense, asks="reconstruction", fix=fix, own_weights=True)
        )
        work = [f"{path}.{i}" for path, ours, _ in pairs for i in range(len(ours))]
        bar = iter(progress(work, "reconstruct"))
        training = backbone.training
        backbone.eval()
        dense.eval()
        errors: dict[str, tuple[float, float]] = {}
        for path, ours, theirs in pairs:
            modality = backbone.modality_of(f"{path}.")
            chunks = _rechunk(batches, backbone.modalities, self.batch_size)
            ours_calls = block_calls(backbone, ours, modality, chunks)
            dense_calls = block_calls(dense, theirs, modality, chunks)
            for block, dense_block in zip(ours, theirs, strict=True):
                name = next(bar)
                with torch.no_grad():
                    outputs = [call.run(dense_block) for call in dense_calls]
                seen = ours_calls if self.inputs == "compressed" else dense_calls
                errors[name] = self._fit(block, seen, outputs)
                log.info("reconstruct %s: error %.3g → %.3g", name, *errors[name])
                with torch.no_grad(), parametrize.cached():
                    for ours_call, dense_call, output in zip(
                        ours_calls, dense_calls, outputs, strict=True
                    ):
                        ours_call.hidden = ours_call.run(block)
                        dense_call.hidden = output
        next(bar, None)
        backbone.train(training)
        return errors

    def _fit(
        self, block: nn.Module, calls: Sequence[Call], outputs: Sequence[Tensor]
    ) -> tuple[float, float]:
        """Train one block; it keeps what it had when training did not help."""
        before = _relative_error(block, calls, outputs)
        trained = [p for p in block.parameters() if p.requires_grad]
        if not trained:
            return before, before
        kept = copy.deepcopy(block.state_dict())
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 - s / self.steps)
        generator = torch.Generator().manual_seed(self.seed)
        sizes = torch.tensor([float(len(call.hidden)) for call in calls])  # each item counts alike
        order = sizes.multinomial(self.steps, replacement=True, generator=generator).tolist()
        for index in order:
            with parametrize.cached():
                loss = F.mse_loss(calls[index].run(block), outputs[index])
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
        after = _relative_error(block, calls, outputs)
        if after >= before:
            block.load_state_dict(kept)
            return before, before
        return before, after


def _rechunk(batches: Sequence[Batch], modalities: Sequence[str], size: int) -> list[Batch]:
    """The inputs of calibration batches, `size` items at a time."""
    chunks = []
    for batch in batches:
        parts = {m: batch[m].split(size) for m in modalities if m in batch}
        for rows in zip(*parts.values(), strict=True):
            chunks.append(dict(zip(parts, rows, strict=True)))
    return chunks


@torch.no_grad()
def _relative_error(block: nn.Module, calls: Sequence[Call], outputs: Sequence[Tensor]) -> float:
    """Squared error of the outputs over their squared size."""
    error = size = 0.0
    with parametrize.cached():
        for call, output in zip(calls, outputs, strict=True):
            error += float((call.run(block) - output).square().sum())
            size += float(output.square().sum())
    return error / size if size else error  # of a block that gives nothing
