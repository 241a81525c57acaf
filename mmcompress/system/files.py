"""Writing files so that a reader finds the old one or the new one, never half of one."""

import errno
import json
import logging
import os
import secrets
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
DAMAGED = ".damaged"


class FullDisk(OSError):
    """There is no room for a file: the message says for which, and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def room_for(path: Path, fix: str = "make room, and repeat the command") -> Iterator[None]:
    """Say what the reason was when there was no room for `path`, which is written inside.

    Libraries hide it: torch in a RuntimeError, safetensors in an error of its own.

    Raises:
        FullDisk: there was no room.
    """
    try:
        yield
    except Exception as error:
        number = _full(error)
        if number is None or isinstance(error, FullDisk):
            raise
        free = f"the {_free(path) / 1e6:,.1f} MB that are free on its disk"
        more = "its quota allows" if number == errno.EDQUOT else free
        raise FullDisk(number, f"{path} needs more than {more}: {fix}") from error


def _full(error: BaseException | None) -> int | None:
    """The operating system's number for a full disk, where that lies behind an exception."""
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno in FULL:
        return error.errno
    if f"(os error {errno.ENOSPC})" in str(error):  # as Rust writes it
        return errno.ENOSPC
    return _full(error.__cause__ or error.__context__)


def _free(path: Path) -> int:
    """Bytes on the disk of a file that need not exist."""
    return shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, keep: Path | None = None
) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, then move it to `path`.

    Args:
        keep: where the file goes that was there before.
    Raises:
        FullDisk: there is no room for it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with room_for(path):
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def damage(path: Path) -> str | None:
    """What is wrong with a ZIP file, as `torch.save` and `numpy.savez` write it; None where it is
    whole, by the checksum (CRC-32) that it holds of each of its parts.

    Raises:
        OSError: it cannot be read at all.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            part = parts.testzip()
    except (
        *(EOFError, ValueError, LookupError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None if part is None else f"its part {part} has another checksum"


def set_aside(path: Path, problem: object, then: str) -> None:
    """Rename a damaged file, whose place may then be taken by a good one, and say so.

    Args:
        problem: what is wrong with it.
        then: what is done now.
    """
    aside = path.with_name(path.name + DAMAGED)
    try:
        path.replace(aside)
    except OSError as error:
        log.warning("%s is damaged (%s) and stays there (%s): %s", path, problem, error, then)
    else:
        log.warning("%s is damaged (%s) and now called %s: %s", path, problem, aside.name, then)


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """A folder to fill beside `folder`, which then appears in one rename, complete.

    When anything fails before, nothing is left.

    Raises:
        ValueError: `folder` exists.
        FullDisk: there is no room for it.
    """
    check_new(folder)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    with room_for(folder):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            check_new(folder)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_new(folder: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        ValueError: `folder` exists.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} already exists: remove it, or choose another place")


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
