"""Every row of the benchmark is a command that works, and finished runs are known as such."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.benchmarks.method_rows import TABLES
from mmcompress.benchmarks.methods import command_line, finished_run, peer_marks
from mmcompress.config.compose import compose_config
from mmcompress.records.numerics import NUMERICS
from mmcompress.records.settings import config_hash
from mmcompress.system.files import write_json
from tests.report.conftest import make_record

ROWS = [row for rows in TABLES.values() for row in rows]


@pytest.fixture(scope="module")
def mini():
    return HFClip.mini()


def test_seeds_of_a_peer_are_one_point(tmp_path: Path):
    def row(seed: int, value: float, trained: bool = True) -> dict:
        named = {"peer": "lib", "name": "int4", "trained": trained, "seed": seed}
        return named | {"bytes": 10 + seed, "metrics": {"retrieval/mean_r@1": value}}

    failed = {"peer": "lib", "name": "int2", "trained": False, "seed": 0, "metrics": None}
    results = [row(0, 0.9, trained=False), row(0, 0.5), row(1, 0.7), failed]
    write_json(tmp_path / "peers.json", {"results": results})
    alone, mean = peer_marks(tmp_path / "peers.json")
    assert (alone.cost, alone.value, alone.family) == (10e-6, 0.9, "lib")
    assert (mean.cost, mean.value, mean.peer) == (pytest.approx(10.5e-6), 0.6, True)
    assert peer_marks(None) == []


def test_names_are_distinct():
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_compose(row, mini):
    folder, overrides = command_line(row, 1, Path("runs"))
    cfg = compose_config(*overrides)
    assert (cfg.name, cfg.seed, cfg.run_dir) == (row.name, 1, str(folder))
    assert (cfg.trainer.max_steps > 0) == row.trained
    recipe = instantiate(cfg.compression)
    budget = instantiate(cfg.budget)
    recipe.check(mini, alternatives=budget.is_set)
    budget.check(recipe, mini)
    assert budget.is_set == ("budget" in row.name or row.name == "best_post_training")


def test_only_the_same_settings_count_as_done(tmp_path):
    overrides = ["compression=int8", "name=a", "seed=0", "trainer=post_training"]
    plain = OmegaConf.to_container(compose_config(*overrides), resolve=True)
    assert not finished_run(tmp_path, overrides)
    hashed = config_hash(plain)
    record = make_record("int8") | {"status": "failed", "config_hash": hashed}
    del record["numerics"]
    write_json(tmp_path / "run.json", record)
    assert not finished_run(tmp_path, overrides)
    write_json(tmp_path / "run.json", record | {"status": "finished"})
    assert not finished_run(tmp_path, overrides), "its numbers mean something else"
    write_json(tmp_path / "run.json", record | {"status": "finished", "numerics": NUMERICS})
    found = finished_run(tmp_path, overrides)
    assert found is not None
    assert found.status == "finished"
    assert not finished_run(tmp_path, [*overrides, "data.batch_size=7"])
