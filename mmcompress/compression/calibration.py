"""Calibration: statistics are collected in passes over a few batches.

Several processes share the work: batches for inputs and gradients, weights for loss changes. All
get what one process alone would, bit for bit.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.backbones.base import UNOBSERVED, Backbone, Target
from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.passes import TOKEN_KIND
from mmcompress.compression.modality_balance import token_weights
from mmcompress.compression.statistics import (
    GRADIENTS,
    INPUTS_BY_BALANCE,
    LOSS_CHANGE,
    Balance,
    GradientStatistic,
    InputStatistic,
    LastFactor,
    Statistic,
    input_statistic,
)
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.functional.finite import describe_not_finite
from mmcompress.system.distributed import all_gather, in_order, rank, size
from mmcompress.system.progress import progress

PERTURBED_PAIRS = 64
"""Calibration pairs that `loss_change` is measured on: each weight has the tower run twice."""

PERTURBATION = 1e-3
"""ε of `loss_change`."""

Batch = dict[str, Tensor]


def collect(
    backbone: Backbone,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    needs: Collection[str] = (INPUTS_BY_BALANCE["none"],),
) -> dict[str, Statistic]:
    """Run calibration batches through the backbone once per need and sum up what each target sees.

    Args:
        batches: dicts modality → preprocessed inputs.
        targets: weights. Bare parameters (`matrix`) have no module whose input could be seen, and
            in a grouped convolution each output has other inputs: they get no `inputs`.
        needs: `inputs`, `inputs_mbq`, `inputs_vlmq`, `gradients`, `loss_change`.
    Returns:
        By target name; a target for which there is nothing is left out.
    Raises:
        ValueError: a target saw no token, or what it saw is not finite.
    """
    batches, found = list(batches), {t.name: Statistic() for t in targets}
    training = backbone.training
    backbone.eval()
    for balance, need in INPUTS_BY_BALANCE.items():
        if need in needs:
            for name, seen in collect_inputs(backbone, batches, targets, balance).items():
                setattr(found[name], need, seen)
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
    for need in INPUTS_BY_BALANCE.values():
        if (inputs := getattr(statistic, need)) is not None:
            parts["inputs"] = inputs.second_moment
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
    backbone: Backbone,
    batches: Sequence[Batch],
    targets: Sequence[Target],
    balance: Balance = "none",
) -> dict[str, InputStatistic]:
    """Moments of the inputs of all targets that have them, by target name.

    Targets that read the same tensor (q, k and v of one attention) share one statistic object.

    Args:
        backbone: runs on the batches, in evaluation mode.
        batches: calibration data, modality → preprocessed inputs.
        targets: whose inputs are seen.
        balance: how much tokens of each modality count.
    """
    seen = [t for t in targets if t.granularity not in UNOBSERVED]
    if not seen:
        return {}
    observer, weigh = _Observer(), token_weights(backbone, batches, seen, balance)
    with ExitStack() as stack, torch.no_grad():
        for target in seen:
            module = backbone.model.get_submodule(target.module)
            handle = module.register_forward_pre_hook(observer.hook(target.name))
            stack.callback(handle.remove)
        wanted = {t.modality for t in seen}
        passes = [p for p in backbone.passes() if wanted.intersection(p.modalities)]

        def run(batch: Batch, give: Callable[[Seen], None]) -> None:
            observer.give, observer.ignored = give, {t.name for t in seen}
            observer.weights = weigh(batch)  # runs the model, and does not count
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
        if TOKEN_KIND in batch:  # what belongs to one example of a processor's keys is not known
            found.append(batch)
            pairs -= len(batch[TOKEN_KIND])
            continue
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
        self.weights: Mapping[str, Tensor] = {}
        """Target → how much each token of the present batch counts."""
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
            weights = self.weights.get(name)
            if weights is not None and weights.shape == x.shape[:-1]:
                self.give((name, input_statistic(module, x, self.valid, weights)))
                return
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
