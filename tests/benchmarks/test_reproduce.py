"""Tables of papers: finished rows are found again, what is missing is said."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mmcompress.benchmarks import reproduce
from mmcompress.config.compose import compose_config
from mmcompress.papers.table import Job, jobs, load_table, table_names
from mmcompress.records.settings import config_hash
from mmcompress.system.files import write_json
from mmcompress.system.locations import project_path


def record_of(job: Job, folder: Path) -> dict:
    """What a run of the job in that folder would leave, metrics aside."""
    plain = OmegaConf.to_container(
        compose_config(*job.overrides, "name='a, b'", f"run_dir={folder}"), resolve=True
    )
    return {
        "status": "finished",
        "config": plain,
        "config_hash": config_hash(plain),
        "metrics": {"dense": {}, "compressed": {"zeroshot/acc@1": 0.6}},
        "size": {
            "artifact_bytes": 1_000_000,
            "dense_bytes": 2_000_000,
            "compression_ratio": 2.0,
            "bits_per_weight": 16.0,
            "dense_dtype": "float32",
        },
    }


def test_a_second_call_runs_nothing(tmp_path, monkeypatch, capsys):
    table = load_table("hqq")
    todo = list(jobs(table, "smoke", reproduce.read_settings(["table=hqq"])))
    ran = []

    def run(job: Job, folder: Path) -> str:
        ran.append(job.row)
        if "HQQ" in job.row:
            return "failed, out of memory (x.log)"
        folder.mkdir(parents=True)
        write_json(folder / "run.json", record_of(job, folder))
        return ""

    monkeypatch.setattr(reproduce, "run", run)
    results = reproduce.run_all(table, todo, tmp_path, "")
    assert ran == ["ViT-H-14, full precision", "HQQ, 2 bits in groups of 16"], "two rows are one"
    assert results["HQQ, 2 bits in groups of 16", None] == "failed, out of memory (x.log)"
    assert results["ViT-B-32, full precision", None].status == "finished"
    assert capsys.readouterr().err.splitlines() == [
        "[hqq 1/3] ViT-H-14, full precision",
        "[hqq 2/3] HQQ, 2 bits in groups of 16",
    ]
    reproduce.run_all(table, todo, tmp_path, "")
    assert ran[2:] == ["HQQ, 2 bits in groups of 16"], "what failed is tried again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table=hqq", "scale=large"], "scale=large must be one of smoke, full"),
        (["table=hqq", "color=red"], "keys of conf/reproduce.yaml"),
        ([], "give table=NAME"),
        (["table=nope"], "table=nope is none of clip_kd, deep_compression"),
        (["table=hqq", "scale=full", "paths.imagenet1k=nowhere"], "scale=full needs imagenet1k"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    monkeypatch.setattr("mmcompress.papers.needs.hub_reachable", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert str(stopped.value).startswith("error: ")
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.slow
def test_a_table_from_end_to_end(tmp_path):
    def call() -> subprocess.CompletedProcess[str]:
        places = [f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"]
        return subprocess.run(
            [sys.executable, str(project_path("scripts/reproduce.py")), "table=hqq", *places],
            capture_output=True,
            text=True,
            check=False,
        )

    first = call()
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("[hqq ") == 2
    assert "| HQQ, 2 bits in groups of 16 | 5" in first.stdout  # of 51 % of the dense model
    assert (tmp_path / "out" / "tables.md").read_text() == first.stdout.rstrip("\n") + "\n"
    again = call()
    assert (again.returncode, again.stderr, again.stdout) == (0, "", first.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", table_names())
def test_rows_of_the_full_scale_compose(name):
    settings = reproduce.read_settings([f"table={name}", "scale=full"])
    settings["paths"] = dict.fromkeys(settings["paths"], "/data")
    for job in jobs(load_table(name), "full", settings):
        cfg = compose_config(*job.overrides)
        assert "mini" not in cfg.backbone._target_
        assert "/data" in str(cfg.data)
