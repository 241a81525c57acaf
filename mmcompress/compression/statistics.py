"""What calibration data says about a weight: inputs it sees, gradients it gets, what it moves.

`calibration` collects it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcompress.functional.hessian import DAMPING, inverse_cholesky

Balance = Literal["none", "mbq", "vlmq"]
"""How much the tokens of each modality count; see `modality_balance`."""

INPUTS, INPUTS_MBQ, INPUTS_VLMQ = "inputs", "inputs_mbq", "inputs_vlmq"
INPUTS_BY_BALANCE: dict[Balance, str] = {
    "none": INPUTS,
    "mbq": INPUTS_MBQ,
    "vlmq": INPUTS_VLMQ,
}
GRADIENTS = "gradients"
LOSS_CHANGE = "loss_change"


class LastFactor:
    """The factor of an inverse Hessian that was made last, for all statistics of a calibration.

    q, k and v hold one statistic and come one after another. To keep every factor would take as
    much memory as all statistics do.
    """

    def __init__(self) -> None:
        self._made_of: tuple[InputStatistic, float, bool] | None = None
        self._factor: Tensor | None = None

    def get(self, inputs: "InputStatistic", damping: float, act_order: bool) -> Tensor:
        """See `InputStatistic.inverse_cholesky`."""
        if self._factor is not None and self._made_of is not None:
            made_of, *settings = self._made_of
            if made_of is inputs and settings == [damping, act_order]:
                return self._factor
        self._made_of = self._factor = None  # it goes before the next one comes
        moment = inputs.second_moment
        if act_order:
            order = inputs.falling_order()
            moment = moment[order][:, order]
        self._made_of = inputs, damping, act_order
        self._factor = inverse_cholesky(moment, damping=damping)
        return self._factor


@dataclass
class InputStatistic:
    """Moments of a weight's input over all calibration tokens; padding does not count.

    Attributes:
        second_moment: (in, in), sum over tokens of `x xᵀ`, float32. For an embedding, whose input
            is one-hot, the diagonal alone: (num_embeddings,), how often each row was read.
        abs_mean: (in,), mean over tokens of `|x|`; for an embedding, how often each row was read.
        abs_max: (in,), largest `|x|`; for an embedding 1 where a row was read.
        tokens: how many vectors were summed.
        last_factor: that the statistics of one calibration share.
    """

    second_moment: Tensor
    abs_mean: Tensor
    abs_max: Tensor
    tokens: int
    last_factor: LastFactor = field(default_factory=LastFactor, repr=False, compare=False)

    def falling_order(self) -> Tensor:
        """The inputs (in,) by falling second moment, int64; of equals the first comes first."""
        return self.second_moment.diagonal().argsort(descending=True, stable=True)

    def inverse_cholesky(self, *, damping: float = DAMPING, act_order: bool = False) -> Tensor:
        """`functional.hessian.inverse_cholesky` of the second moment (in, in).

        Args:
            damping: see there.
            act_order: of the inputs in `falling_order`.
        """
        return self.last_factor.get(self, damping, act_order)


@dataclass
class GradientStatistic:
    """Gradients of the symmetric contrastive loss of calibration batches, at the dense weights.

    Attributes:
        mean: shape of the weight, mean over batches of the gradient.
        squared: shape of the weight, mean over batches of its square: the diagonal of the
            empirical Fisher information, with a batch as one observation.
    """

    mean: Tensor
    squared: Tensor


@dataclass
class Statistic:
    """All that was asked for about one weight; what was not asked for is None.

    Attributes:
        inputs, gradients: see there.
        inputs_mbq, inputs_vlmq: where tokens count by their weight; see `modality_balance`.
        loss_change: `|L(W + ε z) − L(W − ε z)| / 2ε` of the symmetric contrastive loss, for normal
            z.
    """

    inputs: InputStatistic | None = None
    inputs_mbq: InputStatistic | None = None
    inputs_vlmq: InputStatistic | None = None
    gradients: GradientStatistic | None = None
    loss_change: float | None = None

    @property
    def needed_inputs(self) -> InputStatistic:
        """`inputs`, for a step that `needs` them: they have been collected."""
        assert self.inputs is not None, "inputs are not among what the step needs"
        return self.inputs

    def inputs_by(self, balance: Balance) -> InputStatistic:
        """`inputs`, or those of a balance, for a step that `needs` them."""
        found: InputStatistic | None = getattr(self, INPUTS_BY_BALANCE[balance])
        assert found is not None, f"{INPUTS_BY_BALANCE[balance]} are not what the step needs"
        return found

    @property
    def needed_gradients(self) -> GradientStatistic:
        """`gradients`, for a step that `needs` them: they have been collected."""
        assert self.gradients is not None, "gradients are not among what the step needs"
        return self.gradients


def input_statistic(
    module: nn.Module, x: Tensor, valid: Tensor | None, weights: Tensor | None = None
) -> InputStatistic:
    """Sums over one batch; `abs_mean` is not yet divided by `tokens`.

    Args:
        module: a linear layer, embedding or convolution.
        x: its input.
        valid: (B, L) bool, which tokens count, see `matching`; all when None.
        weights: (B, L), how much each counts; alike when None.
    """
    if isinstance(module, nn.Embedding):
        ids = x[valid] if valid is not None and valid.shape == x.shape else x
        counts = torch.bincount(ids.flatten(), minlength=module.num_embeddings).float()
        return InputStatistic(counts, counts.clone(), counts.clamp(max=1), ids.numel())
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        x = _patches(module, x)
    if valid is not None:
        counting = matching(valid, x.shape[:-1])
        x = x[counting]
        weights = None if weights is None else weights[counting]
    rows = x.flatten(0, -2).float()  # N in
    magnitudes = rows.abs()
    largest = magnitudes.amax(dim=0) if len(rows) else rows.new_zeros(rows.shape[1])
    if weights is None:
        return InputStatistic(rows.T @ rows, magnitudes.sum(dim=0), largest, len(rows))
    factors = weights.flatten()[:, None]  # N 1
    moment = rows.T @ (factors * rows)
    return InputStatistic(moment, (factors * magnitudes).sum(dim=0), largest, len(rows))


def matching(valid: Tensor, shape: Sequence[int]) -> Tensor:
    """Which vectors count, from which tokens do.

    Args:
        valid: (B, L) bool.
        shape: of what the vectors form; (B, L), or (B, L + 1) where a tower has put a token of its
            own behind the others, as CoCa's text tower does. Where it is another, all count.
    Returns:
        `shape`, bool.

    Example:
        >>> matching(torch.tensor([[True, False]]), (1, 3))
        tensor([[ True, False,  True]])
    """
    if valid.shape == torch.Size((*shape[:-1], shape[-1] - 1)):
        valid = F.pad(valid, (0, 1), value=True)
    return valid if valid.shape == torch.Size(shape) else valid.new_ones(tuple(shape))


def _patches(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """What each output position of a convolution reads: (B, L, C · kernel)."""
    if module.groups != 1 or module.padding == "same" or module.padding_mode != "zeros":
        raise ValueError(
            f"statistics of {module} are not supported: groups, padding='same' or a "
            "padding_mode; leave it out with a selector (role, granularity)"
        )
    padding = 0 if isinstance(module.padding, str) else module.padding  # "valid" is 0
    if isinstance(module, nn.Conv3d):
        return _blocks(module, x)
    if isinstance(module, nn.Conv1d):  # a picture one pixel high
        kernel, dilation, stride = (
            (1, *size) for size in (module.kernel_size, module.dilation, module.stride)
        )
        beside = (0, padding if isinstance(padding, int) else padding[0])
        return F.unfold(x.unsqueeze(2), kernel, dilation=dilation, padding=beside, stride=stride).mT
    return F.unfold(
        x,
        kernel_size=module.kernel_size,
        dilation=module.dilation,
        padding=padding,
        stride=module.stride,
    ).mT


def _blocks(module: nn.Conv3d, x: Tensor) -> Tensor:
    """`_patches` of a video (B, C, T, H, W)."""
    if isinstance(module.padding, str) or max(module.dilation) > 1:
        raise ValueError(
            f"statistics of {module} are not supported: dilation or padding by name; leave it out "
            "with a selector (role, granularity)"
        )
    depth, height, width = module.padding
    x = F.pad(x, (width, width, height, height, depth, depth))
    for place, (size, step) in enumerate(zip(module.kernel_size, module.stride, strict=True)):
        x = x.unfold(place + 2, size, step)  # B C T H W t h w
    return x.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)
