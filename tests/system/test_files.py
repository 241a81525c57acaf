import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from mmcompress.system.files import (
    FullDisk,
    folder_atomically,
    room_for,
    set_aside,
    write_atomically,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def fail(file) -> None:
        file.write(b"half of the n")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_with_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_refuses_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path) -> None:
    path = tmp_path / "artifact"

    def full() -> None:
        with folder_atomically(path) as folder:
            (folder / "first").write_text("")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FullDisk) as caught:
        full()
    free = shutil.disk_usage(tmp_path).free
    found = re.fullmatch(
        rf"{path} needs more than the ([\d,.]+) MB that are free on its disk: "
        "make room, and repeat the command",
        str(caught.value),
    )
    assert found is not None
    assert float(found[1].replace(",", "")) == pytest.approx(free / 1e6, rel=0.05)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), room_for(tmp_path / "x"):
        (tmp_path / "none").read_text()


def test_what_cannot_even_be_renamed_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = tmp_path / "x"
    path.write_text("?")
    monkeypatch.setattr(Path, "replace", refuse)
    set_aside(path, "half", "made again")
    assert caplog.messages == [
        f"{path} is damaged (half) and stays there ([Errno 13] Permission denied): made again"
    ]
