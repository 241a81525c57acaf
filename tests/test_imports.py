"""Who only reads does not wait for what trains."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("mmcompress.report.report", ("torch", "pytorch_lightning", "transformers")),
        ("mmcompress.artifact.folder", ("pytorch_lightning", "wandb", "matplotlib")),
    ],
)
def test_what_is_not_needed_is_not_imported(module: str, spared: tuple[str, ...]) -> None:
    code = f"import {module}, sys; print([name for name in {spared} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
