"""The multiple-choice knapsack: one choice for each group, least loss, within the bytes."""

from collections.abc import Sequence

import numpy as np

from mmcompress.search.groups import Group


def solve(groups: Sequence[Group], goal: int, limit: int) -> list[int]:
    """The choice of each group: least total loss, at most `goal` bytes, exactly.

    Args:
        groups: with bytes and losses.
        goal: bytes for all groups together.
        limit: of the whole artifact, for the message.
    Raises:
        ValueError: even the smallest choices are too large.
    """
    from scipy.optimize import LinearConstraint, milp  # long to import, and few runs search

    smallest = sum(min(group.bytes) for group in groups)
    if smallest > goal:
        raise ValueError(
            f"budget: the smallest choices take {smallest - goal} bytes more than the "
            f"{limit} allowed: raise the budget, add stronger choices, or set dense_dtype=float16"
        )
    counts = [len(group.bytes) for group in groups]
    losses = np.concatenate([group.losses for group in groups])
    sizes = np.concatenate([group.bytes for group in groups])
    one_each = np.zeros((len(groups), len(losses)))
    ends = np.cumsum(counts)
    for row, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
        one_each[row, start:end] = 1
    found = milp(
        losses,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(sizes[None], ub=goal)],
        integrality=np.ones(len(losses)),
        bounds=(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    assert found.x is not None, found.message
    return [int(np.argmax(found.x[end - n : end])) for n, end in zip(counts, ends, strict=True)]
