"""Splits that a data set does not bring along."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmcompress.data.items import Items, Sample

log = logging.getLogger(__name__)

SHARE = 0.1
"""Of `train` that becomes `val` where a data set has none."""

ALSO = {
    "train": ("training",),
    "val": ("validation", "valid", "dev"),
    "test": ("testing",),
}
"""Our name of a split → what others call it."""


def our_names(found: Iterable[str], data: str) -> dict[str, str]:
    """Name of a split as it is found → as we call it; other names stay as they are.

    Where a split has our name nothing else is taken for it, and of several names the first of
    `ALSO`. The log says what is taken for what.

    Args:
        data: what messages call the data set.
    """
    names = {name: name for name in found}
    for ours, others in ALSO.items():
        theirs = next((other for other in others if other in names), None)
        if ours not in names and theirs is not None:
            log.info("data %s: split %s is taken as %s", data, theirs, ours)
            names[theirs] = ours
    return names


def hold_out(keys: Sequence[str], share: float = SHARE) -> tuple[list[int], list[int]]:
    """Indices to keep and indices to hold out, by the order of the keys' SHA-256.

    It depends on nothing but the keys, so that every run and every machine holds out the same.

    Args:
        keys: one per item.
        share: that is held out, in (0, 1); at least one item.
    Raises:
        ValueError: fewer than two items.
    """
    if len(keys) < 2:
        raise ValueError(f"{len(keys)} items cannot be split into train and val: give more")
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i].encode()).digest())
    count = max(round(share * len(keys)), 1)
    return sorted(order[count:]), sorted(order[:count])


def complete(
    splits: Mapping[str, Items],
    *,
    val_share: float = SHARE,
    augment: Callable[[Any], Any] | None = None,
) -> dict[str, Items]:
    """The splits with a part of `train` as `val` where there is none, and `train` augmented.

    Args:
        splits: `train` is one of them.
        val_share: of `train` that becomes `val`, in (0, 1).
        augment: image → image.
    """
    if not 0 < val_share < 1:
        raise ValueError(f"data.val_share={val_share} must lie between 0 and 1, both excluded")
    found = dict(splits)
    if "val" not in found and len(found["train"]):
        kept, held = hold_out(found["train"].keys, val_share)
        found |= {"val": Sample(splits["train"], held), "train": Sample(splits["train"], kept)}
        found["val"].losses = None  # those of `train` count once
    found["train"].augment = augment
    return found
