"""A byte budget: how many bytes the files may have, and what each layer may get to keep to them."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.backbones.base import Backbone
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import ValueStep
from mmcompress.search.groups import bytes_outside, find_groups

Choice = dict[str, dict[str, Any]]
"""Steps that run, with the arguments that differ from the recipe's; a step left out is skipped."""


class Budget:
    """Bytes to keep to, with the least loss.

    Args:
        ratio: dense bytes / stored bytes to reach, both files counted.
        bytes: instead of `ratio`, the size of both files.
        choices: what a layer may get, each as step → arguments that differ from the recipe's;
            steps that are not named do not run on that layer. None derives them: one choice per
            step when several steps would store the values of one weight, else every combination
            of the values in the steps' `search_space`. Leaving the layer dense is always a choice.
        pairs: calibration pairs that losses are measured on.
    """

    def __init__(
        self,
        *,
        ratio: float | None = None,
        bytes: int | None = None,
        choices: Sequence[Choice] | None = None,
        pairs: int = 128,
    ) -> None:
        if ratio is not None and bytes is not None:
            raise ValueError(f"budget has ratio={ratio} and bytes={bytes}: set one, the other null")
        if ratio is not None and ratio < 1:
            raise ValueError(f"budget.ratio={ratio} must be at least 1: it is dense / stored bytes")
        if bytes is not None and bytes < 1:
            raise ValueError(f"budget.bytes={bytes} must be at least 1")
        if pairs < 2:
            raise ValueError(f"budget.pairs={pairs} must be at least 2")
        self.ratio, self.bytes, self.pairs = ratio, bytes, pairs
        self.choices = choices

    @property
    def is_set(self) -> bool:
        """Whether there is anything to keep to."""
        return self.ratio is not None or self.bytes is not None

    def check(self, recipe: Recipe, backbone: Backbone) -> None:
        """Refuse a budget that is too small whatever the steps do, before any is measured.

        Raises:
            ValueError: what the steps do not reach is larger than the budget.
        """
        if not self.is_set:
            return
        limit = self.limit(backbone)
        beyond = bytes_outside(backbone, find_groups(recipe, backbone), recipe.dense_dtype)
        if beyond > limit:
            raise ValueError(
                f"budget: {limit} bytes are allowed, and the steps "
                f"({', '.join(recipe.steps) or 'none'}) do not reach {beyond}: raise the budget, "
                "or choose a recipe that reaches more"
            )

    def limit(self, backbone: Backbone) -> int:
        """Bytes that both files may take.

        Args:
            backbone: dense.
        """
        return self.bytes or int(dense_file_bytes(backbone.model) / (self.ratio or 1))

    def choices_of(self, recipe: Recipe) -> list[Choice]:
        """What each layer may get; the first choice leaves it dense.

        Raises:
            ValueError: a choice names a step that the recipe does not have.
        """
        dense: list[Choice] = [{}]
        if self.choices is not None:
            unknown = {name for choice in self.choices for name in choice} - set(recipe.steps)
            if unknown:
                raise ValueError(
                    f"budget.choices names {', '.join(sorted(unknown))}, and the recipe's steps "
                    f"are {', '.join(recipe.steps)}"
                )
            return dense + [choice for choice in self.choices if choice]
        values = [name for name, step in recipe.steps.items() if isinstance(step, ValueStep)]
        others: Choice = {name: {} for name in recipe.steps if name not in values}
        if len(values) > 1:
            return dense + [others | {name: {}} for name in values]
        return dense + list(search_space(recipe))


def search_space(recipe: Recipe) -> Iterator[Choice]:
    """Every combination of the strengths that the steps' classes name."""
    rungs: list[list[tuple[str, dict[str, Any]]]] = []
    for name, step in recipe.steps.items():
        names, values = list(step.search_space), itertools.product(*step.search_space.values())
        rungs.append([(name, dict(zip(names, value, strict=True))) for value in values])
    for combination in itertools.product(*rungs):
        yield dict(combination)


def label(choice: Choice) -> str:
    """A choice in words."""
    steps = [
        " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in arguments.items())])
        for name, arguments in choice.items()
    ]
    return " + ".join(steps) or "dense"
