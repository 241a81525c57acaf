"""Every family keeps the contract, and the page that says so is up to date."""

import re
from pathlib import Path

import pytest

import mmcompress.testing.contract
from mmcompress.compression.base import Decision
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.testing.contract import RECIPES, Refused
from mmcompress.testing.holding import Cell, card, contract, hold
from mmcompress.testing.page import document
from mmcompress.testing.zoo.families import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "results" / "families.md"

ONE_OF_EACH = ("gptq", "magnitude", "lowrank", "cluster")
"""Quantized, pruned, low-rank and shared; scripts/make_families.py tries the others."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", ONE_OF_EACH)
def test_every_family_keeps_the_contract(recipe: str, family: str, tmp_path: Path) -> None:
    contract(family).check(recipe, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("open_clip/siglip", "w8a8"),  # a text projection that open_clip calls only as nn.Linear
        ("open_clip/siglip", "upop"),  # heads whose q, k and v lie one level deeper
        ("open_clip/coca", "heads"),  # a mask for all heads of the dense tower
        ("open_clip/coca_cascade", "heads"),  # embeddings with a dimension more
        ("open_clip/convnext", "int2"),  # kernels of 49 weights and groups of 32
        ("open_clip/convnext", "vq"),  # and blocks of 4
        ("hf_speech/whisper", "upop"),  # keys of an attention to another tower's tokens
        ("llava", "blocks"),  # features of a layer that is counted from the last
    ],
    ids="/".join,
)
def test_what_went_wrong_once(family: str, recipe: str, tmp_path: Path) -> None:
    contract(family).check(recipe, tmp_path / "artifact")


def test_most_of_every_family_is_a_target() -> None:
    for family in FAMILIES:
        found = card(family)
        assert found.targets >= 0.95 * found.parameters, family
        assert found.targets + sum(found.left.values()) == found.parameters


@pytest.mark.parametrize(
    ("family", "recipe", "reason"),
    [
        ("mlp", "heads", "granularity='attention' matched 0 of 1 targets"),
        ("mlp", "qwt", "QwT handles block targets and this model has none"),
        ("hf_text/bert", "ecoflap", "HFText has text alone: choose a recipe"),
        ("open_clip/perception_encoder", "upop", "depends on all of them (a rotation by position"),
        ("open_clip/eva01", "heads", "EvaAttention expects its heads to be as wide as its input"),
        ("open_clip/eva02", "neurons", "norm (LayerNorm) in SwiGLU depends on all its neurons"),
        ("open_clip/coca", "qwt", "text_decoder.resblocks.0 lies behind the towers"),
    ],
)
def test_a_recipe_that_does_not_apply_says_why(family: str, recipe: str, reason: str) -> None:
    with pytest.raises(Refused, match=re.escape(reason)):
        contract(family).check(recipe, Path("nowhere"))


class Moody(Integer):
    """Another decision each time."""

    widths = iter(range(8, 2, -1))

    def plan(self, targets, weights, statistics) -> dict[str, Decision]:
        self.bits = next(self.widths)
        return super().plan(targets, weights, statistics)


def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        mmcompress.testing.contract, "build_recipe", lambda name: Recipe({name: Moody(bits=8)})
    )
    assert hold("int8", "mlp").outcome == "broken"


@pytest.mark.parametrize(("recipe", "only"), [("int8", ""), ("hashed_embedding", "text")])
def test_the_only_tower_is_named(recipe: str, only: str) -> None:
    cell = hold(recipe, "hf/clip")
    assert (cell.outcome, cell.only) == ("passed", only)


def test_a_page_by_hand() -> None:
    cells = [
        Cell("int8", "mlp", "passed"),
        Cell("heads", "mlp", "refused", "it has no heads"),
        Cell("int8", "hf/clip", "passed", only="text"),
        Cell("heads", "hf/clip", "broken", "KeyError: 3"),
    ]
    page = document(
        cells,
        {name: card(name) for name in ("hf/clip", "mlp")},
        recipes=["int8", "heads"],
        settings={"int8": ["bits=8"]},
        versions={"torch": "2"},
        command="make",
    )
    assert "2 families × 2 recipes: 2 hold, 1 refused, 1 broken." in page
    assert "| recipe | hf/clip |\n| --- | :---: |\n| `int8` | ✓ text |\n| `heads` | **2** |" in page
    assert "| recipe | mlp |\n| --- | :---: |\n| `int8` | ✓ |\n| `heads` | 1 |" in page
    assert "1. it has no heads\n2. **broken**: KeyError: 3\n" in page


def test_the_page_is_up_to_date() -> None:
    """`python scripts/make_families.py --out docs/results` makes it."""
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert set(rows) == set(RECIPES)
    heads = re.findall(r"^\| recipe \| (.*) \|$", page, flags=re.MULTILINE)
    assert {name for head in heads for name in head.split(" | ")} == set(FAMILIES)
    assert f"**{len(FAMILIES)} families × {len(RECIPES)} recipes: " in page
    assert ", 0 broken.**" in page
