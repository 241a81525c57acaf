import hashlib

import pytest

from mmcompress.records.settings import config_hash, distinct_names, recipe_name

CONFIG = {
    "seed": 0,
    "run_dir": "runs/a",
    "logger": {"csv": {"save_dir": "runs/a"}},
    "compression": {"steps": {"int4": {"bits": 4}}},
    "trainer": {"max_steps": 80, "callbacks": [{"dirpath": "runs/a/checkpoints"}]},
    "data": {"seed": 0},
}


@pytest.mark.parametrize(
    "change",
    [
        {"logger": None},
        {"experiment": "table"},
        {
            "run_dir": "runs/b",
            "trainer": {"callbacks": [{"dirpath": "runs/b/checkpoints"}], "max_steps": 80},
        },
    ],
)
def test_hash_ignores_what_changes_no_result(change):
    assert config_hash(CONFIG | change) == config_hash(CONFIG)


def test_hash_ignores_how_many_processes_calibrate_but_not_how_many_train():
    one, two = {"devices": 1}, {"devices": 2, "num_nodes": 1, "strategy": {"_target_": "ddp"}}
    for steps, same in [(0, True), (1, False)]:
        hashes = {config_hash({"trainer": t | {"max_steps": steps}}) for t in (one, two)}
        assert (len(hashes) == 1) is same


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"data": {"seed": 1}}, {"compression": {"steps": {"int4": {"bits": 3}}}}],
)
def test_hash_follows_what_does(change):
    assert config_hash(CONFIG | change) != config_hash(CONFIG)


def test_hash_is_a_fixed_function():
    text = b'[["data.x.0", 1], ["data.x.1", null], ["seed", 0]]'
    expected = hashlib.sha256(text).hexdigest()[:16]
    assert config_hash({"seed": 0, "data": {"x": [1, None]}}) == expected


def test_seeds_can_be_left_out_at_every_depth():
    other = CONFIG | {"seed": 1, "data": {"seed": 1}}
    assert config_hash(other, without_seed=True) == config_hash(CONFIG, without_seed=True)


def test_dropped_steps_are_not_in_the_name():
    assert recipe_name({"compression": {"steps": {"lowrank": None, "int8": {}}}}) == "int8"


def test_only_settings_that_differ_are_named_and_copies_once():
    def config(steps, **settings):
        return CONFIG | {"trainer": {"max_steps": steps, "val_check_interval": steps}} | settings

    none = {"compression": {"steps": {}}}
    assert distinct_names([config(0), config(80), config(0, **none), config(0, seed=5)]) == [
        "int4 (max_steps=0)",
        "int4 (max_steps=80)",
        "none",
        "int4 (max_steps=0)",
    ]
