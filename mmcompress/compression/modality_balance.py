"""How much each token counts when a layer is calibrated on sequences of several modalities.

In the sequence of an image-text model most tokens stand for a piece of an image, and an error at
one of them moves the answer far less than an error at a token of text. With a weight w_t for each
token the error of a layer's output is Σ_t w_t ‖ΔW x_t‖² = trace(ΔW H ΔWᵀ), H = Σ_t w_t x_t x_tᵀ: a
method that reads moments of inputs needs no other change.

| `modality_balance` | w_t |
|---|---|
| `none` | 1 |
| `mbq` | mean of ‖g_s‖₁ over all tokens s of the same modality |
| `vlmq` | ‖g_t‖₁ |

g_t is the gradient of the answers' cross entropy at the layer's output for token t, at the dense
weights. Weights are scaled to a mean of 1, for `vlmq` in each batch.

`mbq`: "MBQ: Modality-Balanced Quantization for Large Vision-Language Models", Li et al. 2024,
arXiv:2412.19509, which weighs the error of visual and language tokens so in AWQ's search. Where we
differ: the error is squared and comes from moments, and all tokens of text count, not captions
alone.

`vlmq`: "VLMQ: Efficient Post-Training Quantization for Large Vision-Language Models via Hessian
Augmentation", Xue et al. 2025, arXiv:2508.03351, which gives GPTQ's Hessian such factors. Where we
differ: the paper takes the gradient from a backward pass of one block, we from the answers' loss.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import UNOBSERVED, Backbone, Target
from mmcompress.backbones.capabilities import Generator
from mmcompress.backbones.passes import TOKEN_KIND, Batch
from mmcompress.compression.base import Decision
from mmcompress.compression.statistics import (
    INPUTS_BY_BALANCE,
    Balance,
    InputStatistic,
    Statistic,
)
from mmcompress.compression.steps import Step
from mmcompress.functional.tokens import AUDIO, PADDING
from mmcompress.system.distributed import in_order

KINDS = AUDIO + 1

Weights = Mapping[str, Tensor]
"""Target name → weight of each token (B, L) of one batch."""


class WeighsTokens(Step):
    """A step that reads moments of inputs, in which tokens may count by their weight.

    Args:
        modality_balance: how much a token counts: all alike (`none`), by how much the answer
            depends on tokens of its modality (`mbq`), or on itself (`vlmq`). Legal: `none`, `mbq`
            or `vlmq`.
    """

    def __init__(self, *, modality_balance: Balance = "none", **settings: Any) -> None:
        super().__init__(**settings)
        if modality_balance not in INPUTS_BY_BALANCE:
            legal = ", ".join(INPUTS_BY_BALANCE)
            raise ValueError(f"modality_balance={modality_balance!r} must be one of {legal}")
        self.modality_balance: Balance = modality_balance

    @property
    def need(self) -> str:
        """The inputs that it reads, among a step's `needs`."""
        return INPUTS_BY_BALANCE[self.modality_balance]

    def decided(self) -> Decision:
        """What a decision says of it; nothing where all tokens count alike."""
        none = self.modality_balance == "none"
        return {} if none else {"modality_balance": self.modality_balance}

    def check_balance(self, backbone: Backbone) -> None:
        """Refuse to balance what is not mixed.

        Raises:
            ValueError: no sequence of the backbone holds tokens of several modalities.
        """
        mixed = isinstance(backbone, Generator) and backbone.mixes_modalities
        if self.modality_balance != "none" and not mixed:
            raise ValueError(
                f"modality_balance={self.modality_balance} weighs the tokens of images and texts "
                f"in one sequence, and {type(backbone).__name__} reads no such sequence: set it to "
                "none"
            )


def inputs_for(statistic: Statistic, decision: Decision) -> InputStatistic:
    """The inputs that a decision was made by."""
    return statistic.inputs_by(decision.get("modality_balance", "none"))


def token_weights(
    backbone: Backbone, batches: Sequence[Batch], targets: Sequence[Target], balance: Balance
) -> Callable[[Batch], Weights]:
    """Batch → the weights of its tokens, for each target that reads one vector per token.

    Args:
        backbone: runs forward and backward on the batches, in evaluation mode.
        batches: of `Generator.prepare`.
        targets: weights; those whose layer reads other sequences, as an image tower's does, get
            none.
        balance: `none`, `mbq` or `vlmq`.
    """
    if balance == "none":
        return lambda batch: {}
    names = {t.name: t.module for t in targets if t.granularity not in UNOBSERVED}
    if balance == "vlmq":
        return lambda batch: _of_tokens(_magnitudes(backbone, batch, names), batch[TOKEN_KIND])
    return _of_modalities(backbone, batches, names)


def _of_tokens(magnitudes: Mapping[str, Tensor], kinds: Tensor) -> Weights:
    content = kinds != PADDING
    return {name: _mean_one(found, content) for name, found in magnitudes.items()}


def _of_modalities(
    backbone: Backbone, batches: Sequence[Batch], names: Mapping[str, str]
) -> Callable[[Batch], Weights]:
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(KINDS)

    def run(batch: Batch, give: Callable[[tuple[str, Tensor]], None]) -> None:
        kinds = batch[TOKEN_KIND].flatten()
        give(("", torch.bincount(kinds, minlength=KINDS).float()))
        for name, found in _magnitudes(backbone, batch, names).items():
            give((name, torch.bincount(kinds, found.flatten(), minlength=KINDS)))

    def add(found: tuple[str, Tensor]) -> None:
        name, summed = found
        if name:
            sums[name] = sums[name] + summed if name in sums else summed
        else:
            counts.add_(summed)

    in_order(batches, run, add, description="weigh modalities")
    means = {name: summed / counts.clamp(min=1) for name, summed in sums.items()}
    content = counts.clone()
    content[PADDING] = 0
    scaled = {n: m * content.sum() / (m * content).sum() for n, m in means.items() if m.any()}
    return lambda batch: {name: mean[batch[TOKEN_KIND]] for name, mean in scaled.items()}


def _mean_one(weights: Tensor, content: Tensor) -> Tensor:
    total = weights[content].sum()
    return weights * content.sum() / total if total else torch.ones_like(weights)


def _magnitudes(backbone: Backbone, batch: Batch, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Mean magnitude of the loss's gradient at the output of each module: (B, L).

    Args:
        names: target → path of the module.
    """
    shape = batch[TOKEN_KIND].shape
    outputs: list[tuple[str, Tensor]] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            if isinstance(output, Tensor) and output.shape[:-1] == shape:
                outputs.append((name, output if output.requires_grad else output.requires_grad_()))

        return keep

    with ExitStack() as stack, torch.enable_grad():
        for name, path in names.items():
            module = backbone.model.get_submodule(path)
            stack.callback(module.register_forward_hook(hook(name)).remove)
        loss = backbone.loss(batch)
        if not outputs:
            return {}
        tensors = [output for _, output in outputs]
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    found: dict[str, Tensor] = {}
    for (name, output), gradient in zip(outputs, gradients, strict=True):
        magnitude = output.new_zeros(shape) if gradient is None else gradient.abs().mean(dim=-1)
        found[name] = found[name] + magnitude if name in found else magnitude
    return {name: magnitude.detach().float() for name, magnitude in found.items()}
