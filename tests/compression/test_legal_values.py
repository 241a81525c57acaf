"""What docstrings call legal is accepted, and what lies just outside is refused in one sentence."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmcompress.compression.catalog import SELECTORS, Setting, recipes, settings_of
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import one_sentence
from mmcompress.config.validation import check_settings

NEAR = 1e-3
"""How far from an open end a number is tried."""

ONE_OF_TWO = {
    "energy": ("rank_ratio", 0.5),
    "rank_ratio": ("energy", 0.5),
    "groups": ("share_every", 2),
    "share_every": ("groups", [[0, 1]]),
}
"""Of a setting and another one must be null; and what the other is where this one is null."""

STEPS = {
    step.target: (recipe.name, step)
    for recipe in reversed(recipes().values())
    for step in recipe.steps
    if len(recipe.steps) == 1
}
OTHERS = ["objective=distill", "objective=cross_entropy", "objective=captioning"]
OTHERS += ["reconstruction=blockwise"]
CASES = [
    pytest.param(
        f"compression={recipe}",
        f"compression.steps.{step.name}",
        setting,
        id=f"{recipe}-{setting.name}",
    )
    for recipe, step in STEPS.values()
    for setting in step.settings
    if setting.name not in SELECTORS
] + [
    pytest.param(choice, choice.partition("=")[0], setting, id=f"{choice}-{setting.name}")
    for choice in OTHERS
    for setting in settings_of(compose_config(choice)[choice.partition("=")[0]]["_target_"])
]
"""What is composed, the key of the object in it, and one of its settings."""


@dataclass
class Tries:
    """Values that must be accepted, and values that must not."""

    good: list[Any]
    bad: list[Any]


def tries(legal: str, values: dict[str, Any]) -> Tries:
    """By the words of a docstring; `values` are those of the other settings, which bounds may name.

    Example:
        >>> tries("whole number from 2 to 8, or null", {})
        Tries(good=[2, 8, None], bad=[1, 9, 2.5, 'nonsense', True])
        >>> tries("number in [begin, 1)", {"begin": 0.5})
        Tries(good=[0.5, 0.999], bad=[0.499, 1.0, 'nonsense', True])
    """
    first, _, rest = legal.partition(", or ")
    good: list[Any] = [None] if rest == "null" else []
    if whole := re.match(r"whole number(?: from (\d+) to (\d+)| of at least (\d+))?", first):
        low, high = (int(n) if n else None for n in (whole[1] or whole[3], whole[2]))
        ends = [n for n in (low, high) if n is not None] or [0, 7]
        bad: list[Any] = [] if low is None else [low - 1]
        bad += [] if high is None else [high + 1]
        words = re.findall(r"`(\w+)`", first)
        good = [*ends, *words, *([None] if first.endswith("or null") else good)]
        return Tries(good, [*bad, 2.5, "nonsense", True])
    if bounds := re.match(r"number in ([\[(])(\S+), (\S+)([\])])", first):
        low_end, high_end = (float(values.get(n, n)) for n in (bounds[2], bounds[3]))
        closed, closed_above = bounds[1] == "[", bounds[4] == "]"
        inside = [low_end + NEAR * (not closed), high_end - NEAR * (not closed_above)]
        outside = [low_end - NEAR * closed, high_end + NEAR * closed_above]
        return Tries([*inside, *good], [*outside, "nonsense", True])
    if above := re.match(r"number (above|of at least) (\S+)", first):
        end, open_ = float(above[2]), above[1] == "above"
        return Tries([end + NEAR * open_, 1e3, *good], [end - NEAR * (not open_), "nonsense", True])
    if first == "true or false":
        return Tries([True, False], ["nonsense", 2])
    if first == "`N:M` with 0 < N < M":
        return Tries(["2:4", "1:4", *good], ["0:4", "4:4", "4:2", "2-4", "nonsense"])
    if first == "lists of whole numbers":
        return Tries([[[0, 1], [2, 3]], *good], [[[0, 1], [1, 2]], "nonsense", 3])
    words = re.findall(r"`(\w+)`", first)
    good = [None] if first.endswith("or null") else good
    assert words, f"no rule for {legal!r}"
    return Tries([*words, *good], ["nonsense", 2.5])


def with_value(choice: str, key: str, setting: str, value: Any) -> Any:
    """The configuration with one setting changed, and what must change with it."""
    cfg = configuration(choice)
    node = OmegaConf.select(cfg, key)
    OmegaConf.update(node, setting, value, force_add=True)
    if setting in ONE_OF_TWO:
        other, instead = ONE_OF_TWO[setting]
        node[other] = instead if value is None else None
    if setting == "pattern" and isinstance(value, str) and ":" in value:
        kept, size = map(int, value.split(":"))
        node.sparsity = 1 - kept / size if 0 < kept < size else 0.5
        node.allocation = "uniform"
    if setting == "symmetric" and value is False:
        node.midrise = False
    return cfg


@cache
def _composed(choice: str) -> Any:
    return compose_config(choice)


def configuration(choice: str) -> Any:
    """Composed once, copied for each use."""
    return _composed(choice).copy()


def made(cfg: Any, key: str) -> None:
    group = key.partition(".")[0]
    check_settings(cfg, group)
    instantiate(cfg[group])


def cases(choice: str, key: str, setting: Setting) -> Tries:
    assert setting.legal, f"{key}.{setting.name} does not say which values are legal"
    values = OmegaConf.to_container(OmegaConf.select(configuration(choice), key))
    assert isinstance(values, dict)
    return tries(setting.legal, {str(name): value for name, value in values.items()})


def test_every_method_is_here() -> None:
    methods = {step.target for recipe in recipes().values() for step in recipe.steps}
    # The joint factorization of q, k and v has the settings of `LowRank` and stands in a stack.
    assert {target.rpartition(".")[2] for target in methods - set(STEPS)} == {"JointQKV"}


@pytest.mark.parametrize(
    ("choice", "key", "setting"), CASES, ids=lambda value: getattr(value, "name", value)
)
def test_legal_values_are_accepted(choice: str, key: str, setting: Setting) -> None:
    for value in cases(choice, key, setting).good:
        made(with_value(choice, key, setting.name, value), key)


@pytest.mark.parametrize(
    ("choice", "key", "setting"), CASES, ids=lambda value: getattr(value, "name", value)
)
def test_others_are_refused_in_one_sentence(choice: str, key: str, setting: Setting) -> None:
    for value in cases(choice, key, setting).bad:
        with pytest.raises((ValueError, InstantiationException)) as caught:
            made(with_value(choice, key, setting.name, value), key)
        sentence = one_sentence(caught.value)
        assert setting.name in sentence, (value, sentence)
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("choice", "key", "setting"), CASES, ids=lambda value: getattr(value, "name", value)
)
def test_the_default_is_legal(choice: str, key: str, setting: Setting) -> None:
    if setting.default != "required":
        value = OmegaConf.create(f"x: {setting.default}").x
        made(with_value(choice, key, setting.name, value), key)
