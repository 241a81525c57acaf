"""The folder of a run: whose it is, who works in it, and where a run goes on that was cut short.

A lock of the operating system says who works in it. It ends with the process, however that ends,
so that no stale one is left behind; two sweeps into the same folder share the work.
"""

import itertools
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from mmcompress.records.read import BadRecord
from mmcompress.records.record import read_record
from mmcompress.records.schema import FILE, FINISHED, SCORED
from mmcompress.system.files import set_aside, write_json

log = logging.getLogger(__name__)

CLAIM = "claim.json"
"""Of which configuration the run is, who started it last, and how often it was started."""
LOCK = ".lock"
ARTIFACT = "artifact"
CHECKPOINT = Path("checkpoints", "last.ckpt")
PLAN = "plan.json"
"""What the recipe has decided for each target, which loggers are told with the results."""


class FolderUnavailable(Exception):
    """A folder that this run cannot have: the message says why."""


@dataclass
class RunFolder:
    """A folder that belongs to this process until `release`.

    Attributes:
        path: where it is.
        starts: how often its run was started, this time counted.
    """

    path: Path
    starts: int
    lock: BaseFileLock | None

    def release(self) -> None:
        """Let others have the folder."""
        if self.lock is not None:
            self.lock.release()


def checkpoints_in(folder: Path) -> list[Path]:
    """Where earlier starts of the run in `folder` have come to, the newest first."""
    paths = [folder / CHECKPOINT, previous_checkpoint(folder / CHECKPOINT)]
    return [path for path in paths if path.is_file()]


def previous_checkpoint(checkpoint: Path) -> Path:
    """Where the checkpoint is kept that `checkpoint` has replaced.

    Example:
        >>> previous_checkpoint(Path("checkpoints/last.ckpt")).as_posix()
        'checkpoints/last.previous.ckpt'
    """
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def open_folder(path: Path, config_hash: str) -> RunFolder:
    """The folder of a single run: `path` where that is new, or holds a run that is not finished.

    Where it is taken, `-2`, `-3`, … is added. Call it once the configuration has proved valid, so
    that bad input leaves no folder behind.

    Raises:
        ValueError: it cannot be made or written.
    """
    for folder in _numbered(path):
        try:
            return claim_folder(folder, config_hash)
        except FolderUnavailable as taken:
            if _claim(folder) == {}:
                log.warning("%s: another folder is taken", taken)
    raise AssertionError("there is always another number")


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def claim_folder(path: Path, config_hash: str) -> RunFolder:
    """Make `path`, or go on in it, where a run of this very configuration was cut short or failed.

    What a killed process has left half written is removed.

    Raises:
        FolderUnavailable: the run in it has finished, another process works on it, or it holds
            something else.
        ValueError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check(path, config_hash)
        lock = _lock(path)
        try:
            _check(path, config_hash)  # again: it may have changed hands
            starts = 1 + (_claim(path) or {}).get("starts", 0)
            _clean(path)
            host, pid = _this_process()
            claim = {"config_hash": config_hash, "host": host, "pid": pid, "starts": starts}
            write_json(path / CLAIM, claim)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
    except OSError as error:
        raise ValueError(
            f"run_dir={path} cannot be written ({error.strerror}): choose another with run_dir=PATH"
        ) from error
    return RunFolder(path, starts, lock)


def at_work(path: Path) -> str | None:
    """Who works in the folder now, in words; None when nobody does."""
    if not (path / LOCK).exists():
        return None
    try:
        lock = _lock(path)
    except FolderUnavailable as taken:
        return str(taken)
    if lock is not None:
        lock.release()
    return None


def claimed_here(path: Path) -> bool:
    """Whether it was this process that had the folder last."""
    claim = _claim(path)
    return claim is not None and (claim.get("host"), claim.get("pid")) == _this_process()


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _lock(path: Path) -> BaseFileLock | None:
    lock = FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        claim = _claim(path) or {}
        raise FolderUnavailable(
            f"process {claim.get('pid')} on {claim.get('host')} works on it in {path}"
        ) from None
    except NotImplementedError:
        log.warning("%s: its file system knows no locks, do not run two sweeps there", path)
        return None
    return lock


def _check(path: Path, config_hash: str) -> None:
    """Raises `FolderUnavailable` where the folder is not for us."""
    if status_in(path) == FINISHED:
        raise FolderUnavailable(f"a run has finished in {path}")
    claim = _claim(path)
    if claim is None:
        if any(not file.name.startswith(".") for file in path.iterdir()):
            raise FolderUnavailable(f"{path} holds something else")
    elif not claim:
        if not path.name.endswith(config_hash):
            raise FolderUnavailable(
                f"{path / CLAIM} cannot be read, so that nobody knows whose run that is"
            )
    elif claim["config_hash"] != config_hash:
        raise FolderUnavailable(f"{path} holds a run of another configuration")


def is_scored(path: Path) -> bool:
    """Whether the results of the run in `path` are complete, and what is made of them is not."""
    return status_in(path) == SCORED and (path / ARTIFACT).is_dir()


def status_in(path: Path) -> str | None:
    """How the run in `path` has ended; None without a record that can be read."""
    try:
        record = read_record(path)
    except ValueError:
        return None
    return None if record is None else record.status


def _claim(path: Path) -> dict[str, Any] | None:
    """None without a claim; empty where it cannot be read."""
    try:
        claim = json.loads((path / CLAIM).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    known = {"config_hash": str, "host": str, "pid": int, "starts": int}
    whole = isinstance(claim, dict) and all(
        isinstance(claim.get(key), kind) for key, kind in known.items()
    )
    return claim if whole else {}


def _clean(path: Path) -> None:
    """Remove what an earlier start has left, except its checkpoints, its logs and its results.

    Hidden entries are what was being written when the process was killed. An artifact without the
    record of its scores is stored again from the same weights. A record that cannot be read is kept
    under another name.
    """
    _remove([*path.glob(".*"), *(path / CHECKPOINT.parent).glob(".*"), path / "traceback.txt"])
    try:
        read_record(path)
    except BadRecord as error:
        set_aside(path / FILE, error.problem, "the run goes on from its checkpoint, or begins anew")
    if _claim(path) == {}:
        set_aside(path / CLAIM, "it is no claim", "the folder's name says whose it is")
    if not is_scored(path):
        forget_results(path)


def forget_results(path: Path) -> None:
    """Remove what the run in `path` has stored and measured."""
    _remove([path / name for name in (FILE, PLAN, ARTIFACT)])


def _remove(stale: list[Path]) -> None:
    for entry in stale:
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)
