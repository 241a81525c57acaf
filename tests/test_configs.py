"""Every configuration composes, and is what it says."""

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from mmcompress.compression.recipe import Recipe
from mmcompress.config.comments import idea_of
from mmcompress.config.compose import compose_config
from mmcompress.config.validation import check_settings, parameters_of
from mmcompress.system.locations import project_path

CONF = project_path("conf").resolve()
GROUPS = {
    group.name: sorted(
        path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")
    )
    for group in sorted(CONF.iterdir())
    # Hydra's own, and the tables that scripts/reproduce.py reads.
    if group.is_dir() and group.name not in ("hydra", "table")
}
CHOICES = [f"{group}={name}" for group, names in GROUPS.items() for name in names]


def fill_in(cfg: DictConfig) -> None:
    """A value where the user has to give one, or where only a run could tell it."""
    cfg.name = cfg.run_dir = "any"
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, "any")


def untyped(node: Any, path: str = "") -> list[str]:
    """Keys of arguments without an annotation, for which any value would pass."""
    if not isinstance(node, DictConfig):
        return []
    found = []
    target = node.get("_target_")
    for key in node:
        if OmegaConf.is_interpolation(node, key):
            continue
        if target and not key.startswith("_"):
            known = parameters_of(get_object(target))
            if known.types.get(key, Any) is Any and not known.more:
                found.append(f"{path}.{key}")
        found += untyped(node[key], f"{path}.{key}")
    return [key for key in found if not key.endswith(".augment.transforms")]  # torchvision's


@pytest.mark.parametrize("choice", CHOICES)
def test_composes(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its values are of the types that the signatures ask for, each of which says one."""
    if choice == "sweep=optuna_pareto":
        pytest.importorskip("optuna", reason='needs pip install "mmcompress[sweep]"')
    cfg = compose_config(choice)
    assert cfg.seed == 0
    if "wandb_sweep" in cfg:  # which W&B reads, and not train.py
        return
    fill_in(cfg)
    monkeypatch.setattr("mmcompress.config.validation.package_missing", lambda _: "")
    check_settings(cfg)
    assert untyped(cfg) == []


@pytest.mark.parametrize("path", sorted(CONF.rglob("*/*.yaml")), ids=lambda p: p.stem)
def test_the_first_comment_says_what_it_chooses(path: Path) -> None:
    """In one line, which `mmcompress recipes` and `train.py --help` show."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0] == f"# {idea_of(path)}"
    assert lines[0].endswith(".")
    assert len(lines[0]) <= 100


STACKS = [
    name
    for name in GROUPS["compression"]
    if (CONF / "compression" / f"{name}.yaml").read_text().find("\ndefaults:") > 0
]


@pytest.mark.parametrize("name", sorted(set(GROUPS["compression"]) - {"none", *STACKS}))
def test_a_method_is_a_recipe_of_one_step_of_its_name(name: str) -> None:
    recipe = instantiate(compose_config(f"compression={name}").compression)
    assert isinstance(recipe, Recipe)
    assert list(recipe.steps) == [name]


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_holds_the_steps_of_its_parts(name: str) -> None:
    stack = OmegaConf.create((CONF / "compression" / f"{name}.yaml").read_text())
    parts = {step for part in stack.defaults if part != "_self_" for step in steps_of(part)}
    own = set(stack.get("steps", {}))
    recipe = instantiate(compose_config(f"compression={name}").compression)
    assert set(recipe.steps) == parts | own


def steps_of(name: str) -> list[str]:
    return list(compose_config(f"compression={name}").compression.steps)


def test_the_dense_control_has_no_step() -> None:
    assert instantiate(compose_config("compression=none").compression).steps == {}


def test_one_key_of_a_step_can_be_overridden() -> None:
    cfg = compose_config("compression=lowrank_int8", "compression.steps.lowrank.rank_ratio=0.2")
    assert cfg.compression.steps.lowrank.rank_ratio == 0.2
    assert cfg.compression.steps.int8.bits == 8


def test_a_step_can_be_dropped_from_a_stack() -> None:
    recipe = instantiate(
        compose_config("compression=lowrank_int8", "compression.steps.lowrank=null").compression
    )
    assert list(recipe.steps) == ["int8"]


@pytest.mark.parametrize("override", ["compression.steps.lowrank.rank=3", "trainer.epochs=1"])
def test_unknown_keys_are_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        compose_config(override)


def test_conf_travels_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel, conf/ lies inside the package."""
    monkeypatch.setattr("mmcompress.system.locations._PACKAGE", tmp_path / "mmcompress")
    (tmp_path / "mmcompress" / "conf").mkdir(parents=True)
    assert project_path("conf") == tmp_path / "mmcompress" / "conf"
    assert project_path("train.py") == tmp_path / "train.py"
