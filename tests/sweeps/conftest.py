"""Real processes of `train.py`, started and killed by a server that has imported everything."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from mmcompress.data.openmoji import load_pairs

# A run of a second or two; the tests are about runs, not about models.
MLP = (
    "backbone=mlp",
    "data=digits",
    "data.calibration_size=64",
    "objective=cross_entropy",
    "evaluation=accuracy",
    "evaluation.latency.batch_sizes=[1]",
    "logger=none",
    "deployed=null",
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    """Its runs share the user's pictures and have baselines of their own."""
    load_pairs()
    cache = tmp_path_factory.mktemp("cache")
    (cache / "mmcompress").mkdir()
    for pictures in platformdirs.user_cache_path("mmcompress").glob("openmoji_*"):
        (cache / "mmcompress" / pictures.name).symlink_to(pictures)
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def train(server: subprocess.Popen, tmp_path: Path) -> Callable[..., list[tuple[int, str]]]:
    """Runs `train.py` in `tmp_path`, once for each list of overrides, all at the same time.

    The result is, of each, the return code and what it printed. `kill=(stage, seconds)` ends them
    so long after they have entered the stage, with SIGKILL or the signal `by`.
    """

    def run(
        *commands: Sequence[str],
        kill: tuple[str, float] | None = None,
        by: signal.Signals = signal.SIGKILL,
    ) -> list[tuple[int, str]]:
        outputs = [tmp_path / f"{number}.out" for number in range(len(commands))]
        jobs: list[dict[str, Any]] = []
        for command, output in zip(commands, outputs, strict=True):
            output.unlink(missing_ok=True)
            asked = None if kill is None else (*kill, int(by))
            jobs.append(
                {"argv": command, "cwd": str(tmp_path), "output": str(output), "kill": asked}
            )
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(jobs) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        return [(code, out.read_text()) for code, out in zip(codes, outputs, strict=True)]

    return run


@pytest.fixture
def mlp() -> tuple[str, ...]:
    return MLP
