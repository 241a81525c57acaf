"""The log of a run on a disk that is full."""

import logging
from pathlib import Path

import pytest

from mmcompress.session import RunLog


def test_a_full_disk_costs_lines_of_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    handler = RunLog(full, encoding="utf-8")
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "text", (), None))
    assert capsys.readouterr().err == ""
    handler.close()  # which would write what is still buffered
