"""Numbers that are none: NaN and infinity are refused where weights are read, and where scored.

A comparison with NaN is False. A model full of it would rank every right answer first.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from mmcompress.functional.not_finite import NotFiniteError, not_scored


def describe_not_finite(values: Tensor, *, is_mask: bool = False) -> str | None:
    """What is wrong with a tensor, in words; None where all its values are finite.

    Args:
        is_mask: −inf is legal.

    Example:
        >>> import torch
        >>> describe_not_finite(torch.tensor([1.0, torch.nan, torch.nan, torch.inf]))
        '2 NaN and 1 infinite of 4 values'
    """
    if not values.is_floating_point() or bool(values.sum().isfinite()):
        return None  # where one value is not finite, no sum is; the reverse does not hold
    nan = int(values.isnan().sum())
    infinite = int((values.isposinf() if is_mask else values.isinf()).sum())
    parts = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(parts)} of {values.numel():,} values" if parts else None


def find_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first tensor that holds NaN or infinity, and what; None where none does.

    Args:
        named: parameters, and buffers, which may mask by −inf.
    """
    for name, tensor in named:
        found = describe_not_finite(tensor.detach(), is_mask=not isinstance(tensor, nn.Parameter))
        if found is not None:
            return f"{name} holds {found}"
    return None


def check_weights(model: nn.Module, source: str = "the model") -> None:
    """Refuse a model whose parameters or saved buffers are not finite.

    Args:
        model: one on the meta device has no weights, and passes.
        source: where the weights come from, for the message.
    Raises:
        ValueError: names the first such tensor.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return  # its buffers may be memory as it was
    found = find_not_finite(model.state_dict(keep_vars=True).items())
    if found is not None:
        raise ValueError(
            f"{source}: {found}; give weights that are finite, of a training that did not diverge"
        )


def check_trained(model: nn.Module) -> None:
    """Refuse what a diverged training leaves; the loss of its last step may have been finite.

    Raises:
        ValueError: names the first parameter that is not finite.
    """
    found = find_not_finite(model.named_parameters())
    if found is not None:
        raise ValueError(
            f"the training has diverged, {found}: lower optimizer.lr, or choose a milder recipe"
        )


def check_rows(what: str, rows: Tensor) -> Tensor:
    """The rows, once they are found finite.

    Args:
        what: they are, in the plural.
        rows: (N, …), one for each input.
    Raises:
        NotFiniteError: some hold NaN or infinity.
    """
    if bool(rows.sum().isfinite()):
        return rows
    bad = (~rows.flatten(1).isfinite().all(dim=1) if rows.ndim > 1 else ~rows.isfinite()).nonzero()
    found = bad.flatten().tolist()
    if found:
        raise NotFiniteError(not_scored(what, found, len(rows)), found)
    return rows
