import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from mmcompress.compression.catalog import (
    REQUIRED,
    SELECTORS,
    idea_of,
    recipes,
    settings_of,
    summary_of,
)
from mmcompress.config.compose import compose_config
from mmcompress.config.validation import parameters_of
from mmcompress.system.locations import project_path

WANDA = "mmcompress.compression.pruning.wanda.Wanda"
CARDS = recipes()
METHODS = sorted({step.target for card in CARDS.values() for step in card.steps})


def test_a_child_takes_what_its_parent_takes() -> None:
    found = {setting.name: setting for setting in settings_of(WANDA)}
    assert found["sparsity"].default == REQUIRED
    assert found["pattern"].default == "null"
    assert found["updates"].default == "20"
    assert found["schedule"].default == "one_shot"


@pytest.mark.parametrize("target", METHODS)
def test_it_finds_what_the_constructor_takes(target: str) -> None:
    """What Python itself says, after everything is imported."""
    found = [setting.name for setting in settings_of(target)]
    assert found == list(parameters_of(get_object(target)).types)
    assert {*SELECTORS} < {*found}


def test_what_a_child_fixes_is_no_setting_of_it() -> None:
    movement = {s.name for s in settings_of("mmcompress.compression.pruning.movement.Movement")}
    assert "begin" in movement
    assert "schedule" not in movement


@pytest.mark.parametrize("target", METHODS)
def test_every_setting_is_explained(target: str) -> None:
    assert [s.name for s in settings_of(target) if not s.meaning] == []
    assert summary_of(target).endswith(".")


@pytest.mark.parametrize("name", list(CARDS))
def test_a_recipe_reads_as_hydra_composes_it(name: str) -> None:
    steps = OmegaConf.to_container(compose_config(f"compression={name}").compression.steps)
    assert isinstance(steps, dict)
    card = CARDS[name]
    assert [step.name for step in card.steps] == list(steps)
    for step in card.steps:
        values = steps[step.name]
        assert step.target == values.pop("_target_")
        shown = {s.name: OmegaConf.create(f"x: {s.value}").x for s in step.settings}
        assert {key: shown[key] for key in values} == values


def test_a_method_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_methods.py").write_text(
        "from mmcompress.compression.pruning.wanda import Wanda\n"
        "class Base(Wanda):\n"
        '    """Base.\n\n    Args:\n        power: exponent. Legal: number above 0.\n    """\n'
        "    def __init__(self, *, power=2.0, **settings):\n        ...\n"
        "class Mine(Base):\n"
        '    """What is mine\n    and good.\n\n    More.\n    """\n'
    )
    (tmp_path / "mine.yaml").write_text(
        "# Mine: an idea\n# over two lines. Not this.\nsteps:\n  mine:\n"
        "    _target_: their_methods.Mine\n    power: 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (step,) = recipes(tmp_path)["mine"].steps
    assert step.summary == "What is mine and good."
    power = step.settings[0]
    assert (power.name, power.meaning, power.legal) == ("power", "exponent.", "number above 0")
    assert (power.default, power.value) == ("2.0", "3")
    assert {"sparsity", *SELECTORS} < {setting.name for setting in step.settings}


def test_a_wrong_target_is_refused() -> None:
    with pytest.raises(ValueError, match="has no class Wandas: correct the _target_"):
        settings_of("mmcompress.compression.pruning.wanda.Wandas")
    with pytest.raises(ValueError, match="there is no such module: correct the _target_"):
        settings_of("mmcompress.compression.pruning.wandas.Wanda")


def test_the_idea_is_the_first_sentence_of_the_first_comment(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# @package _global_\n# One and\n# the same.\n# No more.\na: 1\n# Nor this.\n")
    assert idea_of(path) == "One and the same."
    path.write_text("a: 1\n# Not at the top.\n")
    assert idea_of(path) == ""


def test_it_needs_no_torch() -> None:
    code = "import sys; from mmcompress.compression.catalog import recipes; recipes()"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_recipe_has_an_idea_of_one_line() -> None:
    assert set(CARDS) == {p.stem for p in (project_path("conf") / "compression").glob("*.yaml")}
    assert {name: card.idea for name, card in CARDS.items() if not card.idea.endswith(".")} == {}


def test_every_recipe_has_its_place_in_the_pages() -> None:
    pages = sorted((Path(__file__).parents[2] / "docs" / "methods").glob("*.md"))
    found = re.findall(r"^```{recipe} (\w+)$", "".join(p.read_text() for p in pages), re.MULTILINE)
    assert set(found) == set(CARDS)
