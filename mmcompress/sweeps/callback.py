"""What Hydra's sweeps lack: a folder that the same command finds again, and a last word.

Jobs may run in other processes and on other machines (joblib, submitit, ray), to which Hydra sends
this callback along. Each job leaves a note of where it runs in the sweep's folder; the end is told
from these notes and the run records that they point to.
"""

import atexit
import hashlib
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mmcompress.records.environment import git_commit
from mmcompress.records.folder import status_in
from mmcompress.records.place import run_path
from mmcompress.records.schema import FINISHED
from mmcompress.sweeps.outcome import Outcome, outcomes, print_outcomes
from mmcompress.system.files import write_json
from mmcompress.system.interruption import listen

NOTES = ".sweeps"
SILENT = ("logger", "callbacks", "resume", "sweep")
"""Settings that are not in the name of a sweep's folder, for its results do not depend on them."""
LONGEST = 80


class SweepCallback(Callback):
    """`hydra.callbacks.sweep` in `conf/train.yaml`."""

    folder: Path
    notes: Path
    made: list[Path]
    """Of the folder and those around it what was not there before, from the inside out."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        task = list(config.hydra.overrides.task)
        if any(override.startswith("run_dir=") for override in task):
            sys.exit(
                "error: run_dir is for a single run, and each job of a sweep has a folder of its "
                "own: choose the one around them with hydra.sweep.dir=PATH"
            )
        given = any(o.startswith("hydra.sweep.dir=") for o in config.hydra.overrides.hydra)
        folder = Path(config.hydra.sweep.dir)
        if not given:
            folder /= sweep_name(config.hydra.runtime.choices.get("sweep"), task)
            # Every job composes its configuration anew, from these overrides and its own.
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = str(folder)
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
        # Absolute, for jobs may run elsewhere; of its own, for another sweep may use the folder.
        self.made = [path for path in (folder, *folder.parents) if not path.exists()]
        self.folder, self.notes = folder, folder.absolute() / NOTES / secrets.token_hex(8)
        if "notes" in config.hydra.launcher:  # ours
            with read_write(config):
                config.hydra.launcher.notes = str(self.notes)
        # For launchers that give up when a job's process dies, and for Ctrl-C.
        atexit.register(self._last_word)
        listen()  # between jobs, and while other processes work on them

    def on_job_start(
        self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any
    ) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        path = run_path(own)
        note = {"folder": str(path), "had_finished": status_in(path) == FINISHED}
        self.notes.mkdir(parents=True, exist_ok=True)
        write_json(self.notes / f"{config.hydra.job.num}.json", note)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._last_word)
        found = self._last_word()
        failed = sum(outcome.status == "failed" for outcome in found)
        if failed:
            sys.exit(
                f"error: {failed} of {len(found)} jobs failed: the same command repeats them alone"
            )

    def _last_word(self) -> list[Outcome]:
        found = outcomes(self.notes)
        if not found:  # no job began, and why has been said
            self._clean()
            return []
        print_outcomes(self.folder, found, commit=git_commit())
        return found

    def _clean(self) -> None:
        """Take back the folders that Hydra has made for the jobs, which were never begun."""
        if self.folder in self.made and (self.folder / "multirun.yaml").exists():
            (self.folder / "multirun.yaml").unlink()
        for folder in self.made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def sweep_name(choice: str | None, overrides: Sequence[str]) -> str:
    """What the folder of a sweep is called: its own name, and what the command line changes.

    Example:
        >>> sweep_name("lowrank_rank", ["sweep=lowrank_rank", "logger=none"])
        'lowrank_rank'
        >>> sweep_name(None, ["seed=1,2", "compression=lowrank,int8"])
        'compression-lowrank-int8-seed-1-2'
    """
    kept = [o for o in sorted(overrides) if re.split(r"[=./@]", o.lstrip("+~"))[0] not in SILENT]
    words = [re.sub(r"[^\w.]+", "-", word).strip("-.") for word in [choice or "", *kept]]
    name = "-".join(word for word in words if word) or "default"
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(' '.join(kept).encode()).hexdigest()[:6]}"
