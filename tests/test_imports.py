"""Who asks for little does not wait for what trains: neither torch nor the libraries around it."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmcompress.system.files import write_json
from mmcompress.system.locations import project_path
from tests.report.conftest import MakeRecord, _make_record

__all__ = ["_make_record"]

BLOCKED = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "pytorch_lightning", "transformers", "wandb"}:
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without_torch(program: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A program in a process where nothing heavy can be imported."""
    command = [sys.executable, "-c", BLOCKED, str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


CLI = project_path("mmcompress/cli.py")
TRAIN = project_path("train.py")


@pytest.mark.parametrize(
    ("program", "words", "shown"),
    [
        (CLI, ["--help"], "tables, pictures and a page"),
        (CLI, ["report", "--help"], "--metric"),
        (CLI, ["train", "--help"], "python train.py -m compression=int8,int4,lowrank"),
        (TRAIN, ["--help"], "wandb*"),
        (TRAIN, ["--cfg", "job", "-p", "data"], "batch_size"),
    ],
)
def test_help_needs_no_torch(program: Path, words: list[str], shown: str) -> None:
    done = without_torch(program, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compression=lowrnk"], "did you mean lowrank?"),
        (["comprssion=int8"], "did you mean compression?"),
        (["trainer.max_stepz=3"], "did you mean max_steps?"),
        (["compression.steps.lowrank.rank_ratoi=0.2"], "did you mean rank_ratio?"),
        (["compression=int8,int4"], "add -m"),
    ],
)
def test_misspelt_words_are_refused_without_torch(words: list[str], said: str) -> None:
    for program, first in ((TRAIN, []), (CLI, ["train"])):
        done = without_torch(program, *first, *words)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_report_needs_no_torch(make_record: MakeRecord, tmp_path: Path) -> None:
    for recipe, recall in (("int4", 0.8), ("int8", 0.9)):
        folder = tmp_path / recipe
        folder.mkdir()
        write_json(folder / "run.json", make_record(recipe, recall=recall))
    done = without_torch(CLI, "report", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "report" / "report.html").exists()


def test_an_artifact_is_read_without_what_trains() -> None:
    code = (
        "import mmcompress.artifact.folder, sys; "
        "print([name for name in ('pytorch_lightning', 'wandb', 'matplotlib') "
        "if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
