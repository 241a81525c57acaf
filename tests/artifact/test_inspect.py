"""`mmcompress inspect` needs neither torch nor the model, not even the code of a user's own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.custom import Custom
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.cli import inspect

WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "open_clip", "pytorch_lightning"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from mmcompress.cli import main
main(["inspect", sys.argv[1]])
"""


def inspect_without_torch(folder: Path) -> str:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_ledger_without_torch(
    backbone: HFClip,
    encode_as: Callable[[str, Tensor], Encoding],
    save_artifact: Callable[..., Artifact],
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = "vision_model.encoder.layers.0.mlp.fc1.weight"
    encodings = {key: encode_as("pruned+int4", backbone.model.state_dict()[key])}
    artifact = save_artifact(backbone, encodings=encodings)
    shown = inspect_without_torch(artifact.folder)
    assert "4 bits" in shown
    assert "not a compressible weight" in shown
    assert f"{artifact.bytes:,}" in shown
    inspect(artifact.folder, [])
    assert capsys.readouterr().out == shown


def test_a_model_of_the_users_own(save_artifact: Callable[..., Artifact]) -> None:
    own = Custom(image_encoder=nn.Linear(4, 2), transform=lambda image: image)
    artifact = save_artifact(own)
    shown = inspect_without_torch(artifact.folder)
    assert "image_encoder.bias" in shown
    assert f"{artifact.bytes:,}" in shown
