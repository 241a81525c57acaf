"""`check_method` finds each broken promise, and says which it is."""

import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.compression.base import Decision, Parametrization
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.testing import check_method
from mmcompress.testing.contract import RECIPES, SAME_SIZE

ONE = ["hf/clip"]
calls = count()


class NoJSON(Integer):
    def plan(self, targets: Any, weights: Any, statistics: Any) -> dict[str, Decision]:
        found = super().plan(targets, weights, statistics)
        return {name: decision | {"seen": {1}} for name, decision in found.items()}

    @classmethod
    def apply(
        cls, module: nn.Module, parameter: str, decision: Decision, *rest: Any, **options: Any
    ) -> nn.Module:
        grid = {key: value for key, value in decision.items() if key != "seen"}
        return super().apply(module, parameter, grid, *rest, **options)


class Moody(Integer):
    def plan(self, targets: Any, weights: Any, statistics: Any) -> dict[str, Decision]:
        self.bits = 3 + next(calls) % 5
        return super().plan(targets, weights, statistics)


class Greedy(Integer):
    """Changes the weight that it is given."""

    @classmethod
    def apply(cls, module: nn.Module, parameter: str, *args: Any, **options: Any) -> nn.Module:
        getattr(module, parameter).data.mul_(0.5)
        return super().apply(module, parameter, *args, **options)


class Meddler(Integer):
    """Changes what lies beside the weight that it is given."""

    @classmethod
    def apply(cls, module: nn.Module, parameter: str, *args: Any, **options: Any) -> nn.Module:
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.add_(0.1)
        return super().apply(module, parameter, *args, **options)


class Forgetful(Integer):
    """Keeps an argument under another name."""

    def __init__(self, *, bits: int, power: float = 1.0, **selectors: Any) -> None:
        super().__init__(bits=bits, **selectors)
        self.exponent = power


class Plain(Parametrization):
    def forward(self, weight: Tensor) -> Tensor:
        return weight


class Shifted(Parametrization):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.01


class Filler(Integer):
    """Puts something where pruning has left zeros, and stores floats."""

    @classmethod
    def apply(cls, *args: Any, **options: Any) -> nn.Module:
        return Shifted()

    def finalize(self, parametrization: nn.Module, weight: Tensor) -> Encoding:
        return Encoding()


class Nothing(Integer):
    """Stores what was there."""

    @classmethod
    def apply(cls, *args: Any, **options: Any) -> nn.Module:
        return Plain()

    def finalize(self, parametrization: nn.Module, weight: Tensor) -> Encoding:
        return Encoding()


class Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return torch.zeros_like(gradients[0])


class Numb(Parametrization):
    def forward(self, weight: Tensor) -> Tensor:
        return Cut.apply(weight)


class Dead(Nothing):
    """Lets no gradient through."""

    @classmethod
    def apply(cls, *args: Any, **options: Any) -> nn.Module:
        return Numb()


class Everywhere(Integer):
    """Does not look at its selectors."""

    def _selectors(self) -> dict[str, list[str]]:
        return {}

    def _wants(self, target: Any) -> bool:
        return target.granularity in self.granularities and target.role != "position"


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (NoJSON(bits=4), "a plan is JSON: dicts with keys of text, lists, numbers, texts, true"),
        (Moody(bits=4), "the same data give the same plan"),
        (Greedy(bits=4), "apply depends on nothing but its arguments ("),
        (Meddler(bits=4), "apply leaves the model as it is, and gives back what goes into it ("),
        (Forgetful(bits=4), "a step keeps every argument under its own name, so that it can be"),
        (Dead(bits=4), "a gradient reaches every parameter that the dense model trains (none re"),
        (Everywhere(bits=4), "with modality=image other towers stay as they are"),
        (
            Integer(bits=4, role="mpl.*"),
            "it applies to some model (hf/clip: compression",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Integer) else "",
)
def test_a_broken_promise_is_named(method: Integer, sentence: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(f"broken promise: {sentence}")) as caught:
        check_method(method, models=ONE)
    assert str(caught.value).startswith(type(method).__name__)
    assert "\n" not in str(caught.value)


def test_zeros_must_stay() -> None:
    with pytest.raises(AssertionError, match="zeros that pruning leaves stay zero"):
        check_method(Filler(bits=4), models=ONE, smaller=False)


def test_other_forms_of_a_method() -> None:
    held: dict[str, str] = {"hf/clip": ""}
    config: Mapping[str, Any] = {
        "_target_": "mmcompress.compression.pruning.magnitude.Magnitude",
        "sparsity": 0.6,
    }
    assert check_method(config, models=ONE) == held
    recipe = Recipe({"prune": Magnitude(sparsity=0.5), "ints": Integer(bits=4)})
    assert check_method(recipe, models=ONE) == held
    assert check_method("int8", models=ONE) == held


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_method(name: str) -> None:
    """What `hold` does not look at: arguments, selectors, zeros, learning, local application."""
    assert check_method(name, models=ONE, smaller=name not in SAME_SIZE) == {"hf/clip": ""}


def test_a_refusal_is_given_back() -> None:
    found = check_method("heads", models=["hf/clip", "custom"])
    assert found["hf/clip"] == ""
    assert found["custom"].startswith("compression.steps.heads: ")


def test_it_needs_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None; import mmcompress as mmc; "
        "print(mmc.testing.check_method('magnitude', models=['custom']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "{'custom': ''}\n", done.stderr
