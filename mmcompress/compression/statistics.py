"""What calibration data says about a weight: inputs it sees, gradients it gets, what it moves.

Several processes share the work: batches for inputs and gradients, weights for loss changes. All
get what one process alone would, bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.backbones.base import UNOBSERVED, Backbone, Target
from mmcompress.backbones.capabilities import Encoder
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.functional.finite import describe_not_finite
from mmcompress.functional.hessian import DAMPING, inverse_cholesky
from mmcompress.system.distributed import all_gather, in_order, rank, size
from mmcompress.system.progress import progress

INPUTS = "inputs"
GRADIENTS = "gradients"
LOSS_CHANGE = "loss_change"

PERTURBED_PAIRS = 64
"""Calibration pairs that `loss_change` is measured on: each weight has the tower run twice."""

PERTURBATION = 1e-3
"""ε of `loss_change`."""

Batch = dict[str, Tensor]


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
        abs_mean: (in,), mean over tokens of |x|; for an embedding, how often each row was read.
        abs_max: (in,), largest |x|; for an embedding 1 where a row was read.
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
        loss_change: |L(W + ε z) − L(W − ε z)| / 2ε of the symmetric contrastive loss, for normal z.
    """

    inputs: InputStatistic | None = None
    gradients: GradientStatistic | None = None
    loss_change: float | None = None

    @property
    def needed_inputs(self) -> InputStatistic:
        """`inputs`, for a step that `needs` them: they have been collected."""
        assert self.inputs is not None, "inputs are not among what the step needs"
        return self.inputs

    @property
    def needed_gradients(self) -> GradientStatistic:
        """`gradients`, for a step that `needs` them: they have been collected."""
        assert self.gradients is not None, "gradients are not among what the step needs"
        return self.gradients


def collect(
    backbone: Backbone,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    needs: Iterable[str] = (INPUTS,),
) -> dict[str, Statistic]:
    """Run calibration batches through the backbone once per need and sum up what each target sees.

    Args:
        batches: dicts modality → preprocessed inputs.
        targets: weights. Bare parameters (`matrix`) have no module whose input could be seen, and
            in a grouped convolution each output has other inputs: they get no `inputs`.
        needs: `inputs`, `gradients`, `loss_change`.
    Returns:
        By target name; a target for which there is nothing is left out.
    Raises:
        ValueError: a target saw no token, or what it saw is not finite.
    """
    batches, found = list(batches), {t.name: Statistic() for t in targets}
    training = backbone.training
    backbone.eval()
    if INPUTS in needs:
        for name, seen in collect_inputs(backbone, batches, targets).items():
            found[name].inputs = seen
    if GRADIENTS in needs:
        for name, gradient in collect_gradients(backbone, batches, targets).items():
            found[name].gradients = gradient
    if LOSS_CHANGE in needs:
        for name, change in collect_loss_changes(backbone, batches, targets).items():
            found[name].loss_change = change
    backbone.train(training)
    for name, statistic in found.items():
        _check_finite(name, statistic)
    return {name: statistic for name, statistic in found.items() if statistic != Statistic()}


def _check_finite(name: str, statistic: Statistic) -> None:
    parts: dict[str, Tensor] = {}
    if statistic.inputs is not None:
        parts["inputs"] = statistic.inputs.second_moment
    if statistic.gradients is not None:
        parts["gradients"] = statistic.gradients.squared
    if statistic.loss_change is not None:
        parts["loss changes"] = torch.tensor(statistic.loss_change)
    for what, values in parts.items():
        if describe_not_finite(values) is not None:
            raise ValueError(
                f"the {what} of {name} are beyond float32 on the calibration data: leave it out "
                "with a selector (modality, role), or choose a recipe that looks at weights alone"
            )


def collect_inputs(
    backbone: Backbone, batches: Sequence[Batch], targets: Sequence[Target]
) -> dict[str, InputStatistic]:
    """Moments of the inputs of all targets that have them, by target name.

    Targets that read the same tensor (q, k and v of one attention) share one statistic object.

    Args:
        backbone: runs on the batches, in evaluation mode.
        batches: calibration data, modality → preprocessed inputs.
        targets: whose inputs are seen.
    """
    seen = [t for t in targets if t.granularity not in UNOBSERVED]
    if not seen:
        return {}
    observer = _Observer()
    with ExitStack() as stack, torch.no_grad():
        for target in seen:
            module = backbone.model.get_submodule(target.module)
            handle = module.register_forward_pre_hook(observer.hook(target.name))
            stack.callback(handle.remove)
        wanted = {t.modality for t in seen}
        passes = [p for p in backbone.passes() if wanted.intersection(p.modalities)]

        def run(batch: Batch, give: Callable[[Seen], None]) -> None:
            observer.give = give
            for one in passes:
                others = {t.name for t in seen if t.modality not in one.modalities}
                observer.ignored = others if one.repeats else set()
                observer.valid = one.valid(batch)
                one.run(batch)
                observer.forget()

        in_order(batches, run, observer.add, description="calibrate")
    for target in seen:
        if target.name not in observer.sums or observer.sums[target.name].tokens == 0:
            raise ValueError(
                f"{target.name} saw no calibration sample: its module never ran on the calibration "
                "data; leave it out with a selector (modality, role)"
            )
    last_factor = LastFactor()
    for statistic in {id(s): s for s in observer.sums.values()}.values():
        statistic.abs_mean /= statistic.tokens
        statistic.last_factor = last_factor
    return observer.sums


def collect_gradients(
    backbone: Backbone, batches: Sequence[Batch], targets: Sequence[Target]
) -> dict[str, GradientStatistic]:
    """Gradients of the loss at all targets, by target name; of a parametrized one at its original.

    Args:
        backbone: runs forward and backward on the batches.
        batches: calibration data, modality → preprocessed inputs.
        targets: at which gradients are taken.
    """
    weights = {t.name: _trainable(backbone, t) for t in targets}
    sums = {
        n: GradientStatistic(torch.zeros_like(w), torch.zeros_like(w)) for n, w in weights.items()
    }

    def run(batch: Batch, give: Callable[[tuple[str, Tensor]], None]) -> None:
        loss = backbone.loss(batch)
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                give((name, gradient))

    def add(found: tuple[str, Tensor]) -> None:
        name, gradient = found
        sums[name].mean += gradient / len(batches)
        sums[name].squared += gradient.square() / len(batches)

    with _only_these_train(backbone, weights.values()):
        in_order(batches, run, add, description="gradients")
    return sums


@torch.no_grad()
def collect_loss_changes(
    backbone: Backbone, batches: Sequence[Batch], targets: Sequence[Target], *, seed: int = 0
) -> dict[str, float]:
    """How much the loss moves when one weight is perturbed.

    The zeroth-order importance of "ECoFLaP", Sung et al. 2024, arXiv:2310.02998, section 3.2: no
    gradient is stored. Only the tower that the weight lies in is run again.

    Args:
        batches: of these the first `PERTURBED_PAIRS` pairs count.
        seed: of the perturbations.
    Returns:
        By target name, the mean over batches of |L(W + ε z) − L(W − ε z)| / 2ε.
    """
    batches = _first_pairs(batches, PERTURBED_PAIRS)
    losses_after = _contrast(backbone, batches)
    generator = torch.Generator().manual_seed(seed)
    changes: dict[str, float] = {}
    for index, target in enumerate(progress(targets, "perturb weights")):
        weight = _trainable(backbone, target)
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        if index % size() != rank():
            continue
        before = weight.clone()
        losses = []
        for sign in (1, -1):
            weight.copy_(before + sign * PERTURBATION * noise)
            losses.append(losses_after(target))
        weight.copy_(before)
        moved = [(up - down).abs() for up, down in zip(*losses, strict=True)]
        changes[target.name] = float(torch.stack(moved).mean()) / (2 * PERTURBATION)
    found = {name: change for part in all_gather(changes) for name, change in part.items()}
    return {target.name: found[target.name] for target in targets}


def _first_pairs(batches: Sequence[Batch], pairs: int) -> list[Batch]:
    found: list[Batch] = []
    for batch in batches:
        if pairs <= 0:
            break
        found.append({modality: inputs[:pairs] for modality, inputs in batch.items()})
        pairs -= len(next(iter(found[-1].values())))
    return found


def _contrast(backbone: Backbone, batches: Sequence[Batch]) -> Callable[[Target], list[Tensor]]:
    """Which tower moved → the loss of each batch, without running the other towers again."""
    of_pairs = type(backbone).loss is Encoder.loss and len(backbone.modalities) == 2
    if not of_pairs:  # it is not one of embeddings, or says why there is none
        return lambda target: [backbone.loss(batch) for batch in batches]
    assert isinstance(backbone, Encoder)
    towers_of, scale = backbone, backbone.logit_scale
    dense = {m: [towers_of.encode(m, b[m]) for b in batches] for m in towers_of.modalities}

    def losses(target: Target) -> list[Tensor]:
        towers = [
            [towers_of.encode(m, b[m]) for b in batches]
            if target.modality in (m, "shared")
            else dense[m]
            for m in dense
        ]
        return [
            contrastive_loss(a, b, scale, batch.get("concept"))
            for a, b, batch in zip(*towers, batches, strict=True)
        ]

    return losses


def _trainable(backbone: Backbone, target: Target) -> nn.Parameter:
    module = backbone.model.get_submodule(target.module)
    if parametrize.is_parametrized(module, target.parameter):
        return module.parametrizations[target.parameter].original  # type: ignore[union-attr,index]
    return getattr(module, target.parameter)


@contextmanager
def _only_these_train(backbone: Backbone, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    before = [(p, p.requires_grad) for p in backbone.parameters()]
    backbone.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


Seen = tuple[str, InputStatistic | str]
"""A target, and what it saw in one pass; or the name of another that saw the same."""


class _Observer:
    """Sums over forward passes, by target name.

    Hooks give what they see to `give`, and `add` sums it up.
    """

    def __init__(self) -> None:
        self.sums: dict[str, InputStatistic] = {}
        self.give: Callable[[Seen], None] = self.add
        self.valid: Tensor | None = None
        self.ignored: set[str] = set()
        """Targets whose inputs do not count for now."""
        self._owners: dict[str, str] = {}
        """Target → the target whose statistic it shares, itself when its own."""
        self._last: tuple[Tensor, str] | None = None

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if name in self.ignored:
                return
            x = args[0]
            if name not in self._owners:
                twin = self._last is not None and self._last[0] is x and _is_matrix(module)
                self._owners[name] = self._last[1] if self._last and twin else name
            owner = self._owners[name]
            if owner != name:
                self.give((name, owner))
                return
            self._last = (x, name)
            self.give((name, input_statistic(module, x, self.valid)))

        return observe

    def forget(self) -> None:
        """Drop the reference to the last input."""
        self._last = None

    def add(self, seen: Seen) -> None:
        """Sum up; order matters to the last bit."""
        name, new = seen
        if isinstance(new, str) or name not in self.sums:
            self.sums[name] = self.sums[new] if isinstance(new, str) else new
            return
        known = self.sums[name]
        known.second_moment += new.second_moment
        known.abs_mean += new.abs_mean
        known.abs_max = torch.maximum(known.abs_max, new.abs_max)
        known.tokens += new.tokens


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def input_statistic(module: nn.Module, x: Tensor, valid: Tensor | None) -> InputStatistic:
    """Sums over one batch; `abs_mean` is not yet divided by `tokens`.

    Args:
        module: a linear layer, embedding or convolution.
        x: its input.
        valid: (B, L) bool, which tokens count, see `matching`; all when None.
    """
    if isinstance(module, nn.Embedding):
        ids = x[valid] if valid is not None and valid.shape == x.shape else x
        counts = torch.bincount(ids.flatten(), minlength=module.num_embeddings).float()
        return InputStatistic(counts, counts.clone(), counts.clamp(max=1), ids.numel())
    if isinstance(module, nn.Conv2d):
        x = _patches(module, x)
    if valid is not None:
        x = x[matching(valid, x.shape[:-1])]
    rows = x.flatten(0, -2).float()  # N in
    magnitudes = rows.abs()
    largest = magnitudes.amax(dim=0) if len(rows) else rows.new_zeros(rows.shape[1])
    return InputStatistic(rows.T @ rows, magnitudes.sum(dim=0), largest, len(rows))


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


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """What each output position of a convolution reads: (B, L, C · kh · kw)."""
    if module.groups != 1 or module.padding == "same" or module.padding_mode != "zeros":
        raise ValueError(
            f"statistics of {module} are not supported: groups, padding='same' or a "
            "padding_mode; leave it out with a selector (role, granularity)"
        )
    return F.unfold(
        x,
        kernel_size=module.kernel_size,
        dilation=module.dilation,
        padding=0 if isinstance(module.padding, str) else module.padding,  # "valid" is 0
        stride=module.stride,
    ).mT
