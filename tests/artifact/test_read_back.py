"""What is written is read: tensors of which a few bytes tell all, and files that went wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.mlp import MLP
from mmcompress.format import writer
from mmcompress.format.bundles import FRAME
from mmcompress.format.codecs import ans, planes
from mmcompress.format.errors import ArtifactError
from mmcompress.format.tensorfile import write_file

Save = Callable[..., Artifact]

WEIGHT = "hidden.0.weight"
SIDE, WIDTH = 46, 2048
COUNT = SIDE**2 * WIDTH
"""Values of the weight: more than a frame of a bundle holds, and than 7 bytes could in 0.1."""


def make_backbone(dtype: torch.dtype = torch.bfloat16) -> MLP:
    """One large layer, whose weights lie on a coarse grid of `dtype`; they entropy code fast."""
    backbone = MLP(size=SIDE, hidden=[WIDTH], classes=2)
    grid = torch.randn(256, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    places = torch.arange(COUNT) * 7919 % 2003 % 256
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.copy_(grid[places[: parameter.numel()]].view(parameter.shape))
    return backbone.eval()


def weights_of(backbone: Any) -> dict[str, Tensor]:
    return {key: tensor.detach() for key, tensor in backbone.model.state_dict().items()}


def check_same(artifact: Artifact, backbone: MLP) -> None:
    loaded, wanted = weights_of(Artifact.load(artifact.folder).backbone), weights_of(backbone)
    assert loaded.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(loaded[key], tensor)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_large_weights_that_were_born_in_half_precision(
    dtype: torch.dtype, save_artifact: Save
) -> None:
    """Their lowest bytes are all zero."""
    assert COUNT > FRAME > 7 * 2**19
    backbone = make_backbone(dtype)
    check_same(save_artifact(backbone), backbone)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_such_files_of_0_1_load(
    dtype: torch.dtype, save_artifact: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1 wrote a plane of zeros as seven bytes, which it refused to read."""

    def as_0_1_did(plane: np.ndarray, *, by_rows: bool) -> tuple[int, np.ndarray]:
        frame = ans.encode_symbols(plane, planes.ROW)
        return min((planes.RAW, plane), (planes.ANS, frame), key=lambda coded: len(coded[1]))

    assert len(ans.encode_symbols(np.zeros(FRAME, np.uint8), planes.ROW)) == 7
    backbone = make_backbone(dtype)
    monkeypatch.setattr(planes, "_encode", as_0_1_did)
    artifact = save_artifact(backbone)
    monkeypatch.undo()
    check_same(artifact, backbone)


def nothing_kept(weight: Tensor) -> Encoding:
    return Encoding(steps=["pruned"], mask=torch.zeros(weight.shape, dtype=torch.bool))


def all_codes_zero(weight: Tensor) -> Encoding:
    values = {"codec": "quantize", "bits": 4, "group_size": weight.shape[1]}
    return Encoding(["int4"], values, {"scale": torch.full((len(weight), 1), 0.5)})


def one_entry(weight: Tensor) -> Encoding:
    tensors = {
        "indices": torch.zeros(weight.numel(), dtype=torch.int64),
        "codebook": torch.zeros(1, 1),
    }
    return Encoding(["cluster"], {"codec": "codebook"}, tensors)


@pytest.mark.parametrize("make", [nothing_kept, all_codes_zero, one_entry, lambda _: Encoding()])
def test_a_large_weight_of_which_nothing_is_left(
    make: Callable[[Tensor], Encoding], save_artifact: Save
) -> None:
    backbone = make_backbone()
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.zero_()
    weight = backbone.model.get_parameter(WEIGHT).detach()
    artifact = save_artifact(backbone, encodings={WEIGHT: make(weight)})
    assert artifact.bytes < 20_000  # for 4.3 million values
    check_same(artifact, backbone)


def test_a_constant_that_is_not_zero(save_artifact: Save) -> None:
    backbone = make_backbone()
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.fill_(-0.3)
    check_same(save_artifact(backbone), backbone)


def test_a_file_that_went_wrong_is_not_saved(
    save_artifact: Save, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change_one(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
        dtype, data = tensors["dense.float32"]
        changed = np.array(data)
        changed.view(np.float32)[-1] += 1
        write_file(path, tensors | {"dense.float32": (dtype, changed)})

    backbone = MLP(size=2, hidden=[2])
    monkeypatch.setattr(writer, "write_file", change_one)
    with pytest.raises(ArtifactError, match=r"gives back other values of hidden\.0\.weight"):
        save_artifact(backbone)
    monkeypatch.setattr(writer, "write_file", lambda path, _: path.write_bytes(b"half"))
    with pytest.raises(ArtifactError, match="no valid safetensors file"):
        save_artifact(backbone)
    assert not list(tmp_path.iterdir())


def test_what_the_adapter_could_not_build_is_not_saved(
    save_artifact: Save, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = MLP(size=2, hidden=[2])
    monkeypatch.setitem(backbone._spec, "size", 3)
    with pytest.raises(ArtifactError, match="tensors are not those that were stored"):
        save_artifact(backbone)
    assert not list(tmp_path.iterdir())
