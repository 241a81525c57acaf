"""Every key of a configuration is held against the signature of what it configures."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mmcompress.config.compose import compose_config
from mmcompress.config.moved import MOVED_TARGETS
from mmcompress.config.validation import check_settings, parameters_of, takes, words

GROUPS = ("seed", "backbone", "data", "trainer")
"""All but what refers to the running program."""


def made_of(**settings: Any) -> DictConfig:
    return OmegaConf.create({"data": {"_target_": "mmcompress.data.openmoji.OpenMoji", **settings}})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": "big"}, "data.batch_size=big must be a whole number"),
        ({"batch_size": True}, "data.batch_size=true must be a whole number"),
        ({"batch_size": 2.0}, "data.batch_size=2.0 must be a whole number"),
        ({"seconds": "long"}, "data.seconds=long must be a number or null"),
        ({"augment": 1}, "data.augment=1 must be true or false"),
        ({"color": 1}, "data.color: there is no such setting; data has none"),
        ({"batch_size": "???"}, "data.batch_size must be given: add data.batch_size=VALUE"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_key(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        check_settings(made_of(**settings))


def test_where_a_value_stands_is_told_and_not_where_it_is_used() -> None:
    cfg = compose_config("seed=abc")
    assert cfg.data.seed == "abc"
    with pytest.raises(ValueError, match=r"^seed=abc must be a whole number from 0 to 4294967295$"):
        check_settings(cfg, *GROUPS)
    cfg = compose_config("backbone=trained", "trainer.accelerator=3")
    with pytest.raises(ValueError, match=r"^trainer.accelerator=3 must be a text"):
        check_settings(cfg, *GROUPS)


def test_a_value_may_come_from_another_key() -> None:
    check_settings(compose_config("data.batch_size=${data.eval_batch_size}"), "data")


def test_parameters_of_parents_count() -> None:
    """`role` is a parameter of `Step`, to which `LowRank` hands it on."""
    target = "mmcompress.compression.lowrank.svd.LowRank"
    assert takes(target, "rank_ratio")
    assert takes(target, "role")
    assert not takes(target, "rank")


def test_a_target_that_is_not_there_ends_in_one_sentence() -> None:
    def refused(target: str) -> str:
        with pytest.raises(ValueError, match=r"^compression\.steps\.own\._target_=") as error:
            check_settings(
                compose_config(f"+compression.steps.own={{_target_:{target}}}"), "compression"
            )
        return str(error.value)

    assert refused("mmcompress.compression.lowrank.lowrank.LowRank").endswith(
        "has moved: write mmcompress.compression.lowrank.svd.LowRank"
    )
    assert "(No module named 'mmcompress.compression.lowrank.nowhere'): correct the" in refused(
        "mmcompress.compression.lowrank.nowhere.LowRank"
    )


@pytest.mark.parametrize(("old", "new"), sorted(MOVED_TARGETS.items()))
def test_moved_targets_are_where_we_say_they_are(old: str, new: str) -> None:
    assert callable(get_object(new))
    with pytest.raises(ImportError):
        get_object(old)


def test_what_hands_settings_on_to_an_unknown_place_takes_any() -> None:
    from datetime import timedelta

    from pytorch_lightning.strategies import DDPStrategy

    assert parameters_of(DDPStrategy).more
    assert parameters_of(timedelta).more


def test_a_group_that_a_run_needs() -> None:
    with pytest.raises(ValueError, match=r"^optimizer: a run needs one, choose it with optimizer="):
        check_settings(OmegaConf.create({"optimizer": {}}))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as refused:
        check_settings(compose_config("evaluation=classification"), "evaluation")
    assert str(refused.value) == (
        "evaluation.evaluators.linear_probe needs the package sklearn: "
        'pip install "mmcompress[probe]"'
    )


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (Literal["a", "b"] | None, "a, b or null"),
        (list[int] | str, "a list or a text"),
        (dict[str, int], "keys with values"),
        (str | Path, "a text or a path"),
        (int | Tensor, "a whole number"),
    ],
)
def test_types_in_words(hint: Any, said: str) -> None:
    assert words(hint) == said
