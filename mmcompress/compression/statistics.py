"""What calibration data says about the input of each weight."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone, Target


@dataclass
class Statistic:
    """Second moment of a weight's input over all calibration tokens.

    Attributes:
        second_moment: (in, in), sum over tokens of `x xᵀ`, float32. For an embedding, whose input
            is one-hot, the diagonal alone: (num_embeddings,), how often each row was read.
        tokens: how many vectors were summed; padding does not count.
    """

    second_moment: Tensor
    tokens: int


def collect(
    backbone: Backbone, batches: Iterable[dict[str, Tensor]], targets: Sequence[Target]
) -> dict[str, Statistic]:
    """Run calibration batches through the backbone once and sum up what each target sees.

    Args:
        batches: dicts modality → preprocessed inputs.
        targets: bare parameters (`matrix`) have no module whose input could be seen; they are
            left out of the result.
    Returns:
        By target name.
    Raises:
        ValueError: a target saw no token.
    """
    seen = {t.name: t for t in targets if t.granularity != "matrix"}
    sums: dict[str, Statistic] = {}
    valid: dict[str, Tensor | None] = {}
    training = backbone.training
    backbone.eval()
    with ExitStack() as stack, torch.no_grad():
        for target in seen.values():
            stack.enter_context(_observe(backbone, target, sums, valid))
        modalities = sorted({t.modality for t in seen.values()} & set(backbone.modalities))
        for batch in track(list(batches), description="calibrate", transient=True):
            for modality in modalities or backbone.modalities:
                valid["tokens"] = backbone.valid_tokens(modality, batch[modality])
                backbone.encode(modality, batch[modality])
    backbone.train(training)
    for name in seen:
        if name not in sums or sums[name].tokens == 0:
            raise ValueError(
                f"{name} saw no calibration sample: its module never ran on the calibration data; "
                "leave it out with a selector (modality, role)"
            )
    return sums


@contextmanager
def _observe(
    backbone: Backbone, target: Target, sums: dict[str, Statistic], valid: dict[str, Tensor | None]
) -> Iterator[None]:
    module = backbone.model.get_submodule(target.module)

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        moment, tokens = _second_moment(module, args[0], valid["tokens"])
        if target.name in sums:
            sums[target.name].second_moment += moment
            sums[target.name].tokens += tokens
        else:
            sums[target.name] = Statistic(moment, tokens)

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _second_moment(module: nn.Module, x: Tensor, valid: Tensor | None) -> tuple[Tensor, int]:
    if isinstance(module, nn.Embedding):
        ids = x[valid] if valid is not None and valid.shape == x.shape else x
        counts = torch.bincount(ids.flatten(), minlength=module.num_embeddings)
        return counts.float(), ids.numel()
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding == "same" or module.padding_mode != "zeros":
            raise ValueError(
                f"statistics of {module} are not supported: groups, padding='same' or a "
                "padding_mode; leave it out with a selector (role, granularity)"
            )
        x = F.unfold(
            x,
            kernel_size=module.kernel_size,
            dilation=module.dilation,
            padding=0 if isinstance(module.padding, str) else module.padding,  # "valid" is 0
            stride=module.stride,
        ).mT  # B L (C·kh·kw)
    if valid is not None and valid.shape == x.shape[:-1]:
        x = x[valid]
    rows = x.flatten(0, -2).float()  # N in
    return rows.T @ rows, len(rows)
