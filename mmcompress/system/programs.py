"""Programs of ours that run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Where mmcompress was imported from."""


def run_program(file: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """What a Python program gave back; it finds the mmcompress that this process runs.

    Args:
        file: the program.
        words: its arguments.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # -P: the programs lie in packages of ours, whose files must not be taken for other libraries.
    command = [sys.executable, "-P", "-W", "ignore", str(file), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
