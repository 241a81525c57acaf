"""Save → load is exact for every kind of encoding; files are deterministic and complete."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact, backbone_in
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.format import bundles
from mmcompress.format.errors import ArtifactError
from mmcompress.format.names import Entry
from mmcompress.format.reader import Reader
from mmcompress.functional.lookup import lookup
from mmcompress.modules.edits import EDITS, Edit
from mmcompress.modules.lowrank import LowRankLinear

Save = Callable[..., Artifact]
EncodeAs = Callable[[str, Tensor], Encoding]

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
PATCH = "vision_model.embeddings.patch_embedding.weight"


def assert_same_model(found: HFClip, expected: HFClip) -> None:
    state, wanted = found.model.state_dict(), expected.model.state_dict()
    assert list(state) == list(wanted)
    for key, tensor in wanted.items():
        assert torch.equal(state[key], tensor), key
        assert state[key].dtype == tensor.dtype, key
    buffers = dict(found.model.named_buffers())
    for name, buffer in expected.model.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    pixels, ids = torch.rand(2, 3, 32, 32), found.tokenize(["cat", "red dog"])
    with torch.no_grad():
        assert torch.equal(found.encode("image", pixels), expected.encode("image", pixels))
        assert torch.equal(found.encode("text", ids), expected.encode("text", ids))


def encode_all(backbone: HFClip, kind: str, encode_as: EncodeAs) -> dict[str, Encoding]:
    state = backbone.model.state_dict()
    return {key: encode_as(kind, state[key]) for key in (FC1, EMBEDDING, PATCH)}


def test_every_kind_of_encoding_comes_back(
    kind: str, backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    saved = save_artifact(backbone, encodings=encode_all(backbone, kind, encode_as))
    loaded = Artifact.load(saved.folder)
    assert_same_model(loaded.backbone, backbone)
    assert loaded.manifest == saved.manifest
    assert not loaded.backbone.training
    assert all(p.requires_grad and p.is_leaf for p in loaded.backbone.parameters())
    assert loaded.backbone.tokenize(["cat"]).tolist() == backbone.tokenize(["cat"]).tolist()


def test_tied_weights_are_one_again(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    backbone.model.text_projection.weight = backbone.model.visual_projection.weight
    saved = save_artifact(backbone, encodings=encode_all(backbone, "pruned+int4", encode_as))
    loaded = Artifact.load(saved.folder)
    assert_same_model(loaded.backbone, backbone)
    assert all(p.requires_grad and p.is_leaf for p in loaded.backbone.parameters())
    model = loaded.backbone.model
    assert model.text_projection.weight is model.visual_projection.weight


def test_another_run_can_start_from_it(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    saved = save_artifact(backbone, encodings=encode_all(backbone, "int4", encode_as))
    assert_same_model(backbone_in(str(saved.folder)), backbone)


def test_no_run_starts_from_layers_that_were_replaced(
    backbone: HFClip, save_artifact: Save
) -> None:
    layer = backbone.model.vision_model.encoder.layers[0].mlp
    layer.fc1 = LowRankLinear(layer.fc1, rank=2)
    structure = {
        "step": "lowrank",
        "edit": "lowrank",
        "version": 1,
        "modules": {FC1.removesuffix(".weight"): {"rank": 2}},
    }
    saved = save_artifact(backbone, structure=[structure])
    with pytest.raises(ArtifactError, match=r"lowrank has put in place .* stack the steps in one"):
        backbone_in(str(saved.folder))


def test_dense_model_comes_back_and_leaves_the_random_state_alone(
    backbone: HFClip, save_artifact: Save
) -> None:
    saved = save_artifact(backbone)
    before = torch.get_rng_state()
    loaded = Artifact.load(saved.folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_model(loaded.backbone, backbone)


def test_same_input_gives_the_same_bytes(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    encodings = encode_all(backbone, "pruned+int4", encode_as)
    folders = [save_artifact(backbone, name, encodings=encodings).folder for name in "ab"]
    names = sorted(file.name for file in folders[0].iterdir())
    assert names == ["manifest.json", "model.safetensors", "tokenizer.json"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_half_precision_remainder(
    backbone: HFClip,
    encode_as: EncodeAs,
    save_artifact: Save,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not smaller, so that sizes are exact.
    monkeypatch.setattr(bundles.planes, "compress", lambda values, **_: values.view(np.uint8))
    encodings = encode_all(backbone, "int8", encode_as)
    with pytest.raises(AssertionError, match="is not rounded to float16"):
        save_artifact(backbone, encodings=encodings, dense_dtype="float16")
    for key, tensor in backbone.model.state_dict().items():
        if key not in encodings:
            tensor.copy_(tensor.half())
    full = save_artifact(backbone, "full", encodings=encodings)
    half = save_artifact(backbone, "half", encodings=encodings, dense_dtype="float16")
    assert_same_model(Artifact.load(half.folder).backbone, backbone)
    dense = [[row.bytes for row in a.ledger() if row.payload == "dense"] for a in (full, half)]
    assert [2 * size for size in dense[1]] == dense[0]


def test_tied_weights_are_stored_once_and_stay_tied(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    layers = backbone.model.vision_model.encoder.layers
    layers[1].mlp.fc1.weight = layers[0].mlp.fc1.weight
    layers[1].mlp.fc2.weight = layers[0].mlp.fc2.weight
    other = FC1.replace("layers.0", "layers.1")
    encodings = {other: encode_as("int4", backbone.model.state_dict()[other])}
    saved = save_artifact(backbone, encodings=encodings)
    first, second = (FC1.replace("fc1", "fc2").replace("layers.0", f"layers.{i}") for i in (0, 1))
    assert saved.manifest["aliases"] == {FC1: other, second: first}
    loaded = Artifact.load(saved.folder).backbone
    assert_same_model(loaded, backbone)
    layers = loaded.model.vision_model.encoder.layers
    assert layers[0].mlp.fc1.weight is layers[1].mlp.fc1.weight
    assert layers[0].mlp.fc2.weight is layers[1].mlp.fc2.weight


def split(module: Any, *, rank: int) -> nn.Module:
    """Stands in for an edit: a linear layer becomes two."""
    device = module.weight.device
    thin = nn.Linear(module.in_features, rank, bias=False, device=device)
    return nn.Sequential(thin, nn.Linear(rank, module.out_features, device=device))


def test_structure_is_replayed(
    monkeypatch: pytest.MonkeyPatch, backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    monkeypatch.setitem(EDITS, ("split", 7), Edit(split, ("rank",)))
    path = FC1.removesuffix(".weight")
    structure = [{"step": "x", "edit": "split", "version": 7, "modules": {path: {"rank": 3}}}]
    layer = backbone.model.get_submodule(path)
    backbone.model.set_submodule(path, split(layer, rank=3))
    factor = f"{path}.0.weight"
    encodings = {factor: encode_as("int4", backbone.model.state_dict()[factor])}
    saved = save_artifact(backbone, structure=structure, encodings=encodings)
    assert_same_model(Artifact.load(saved.folder).backbone, backbone)
    assert Artifact.read(saved.folder).backbone.model.get_parameter(factor).is_meta


def test_an_existing_folder_is_refused(
    backbone: HFClip, save_artifact: Save, tmp_path: Path
) -> None:
    (tmp_path / "artifact").mkdir()
    with pytest.raises(ValueError, match="already exists: remove it"):
        save_artifact(backbone)
    assert list((tmp_path / "artifact").iterdir()) == []


def test_nothing_is_left_of_a_failed_save(
    backbone: HFClip, save_artifact: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: HFClip, folder: Path) -> list[str]:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(HFClip, "save_assets", fail)
    with pytest.raises(OSError, match="disk full"):
        save_artifact(backbone)
    assert list(tmp_path.iterdir()) == []


def test_parametrized_or_unknown_weights_are_our_bugs(
    backbone: HFClip, save_artifact: Save, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="that the model does not have"):
        save_artifact(backbone, encodings={"nothing.weight": Encoding()})
    parametrize.register_parametrization(
        backbone.model.get_submodule(FC1.removesuffix(".weight")), "weight", nn.Identity()
    )
    with pytest.raises(AssertionError, match="fc1 is not baked"):
        save_artifact(backbone)
    assert list(tmp_path.iterdir()) == []


def test_manifest_is_compact_and_complete(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    encodings = {FC1: encode_as("int4", backbone.model.state_dict()[FC1])}
    reasons = dict.fromkeys((EMBEDDING, PATCH), "int4: too small")
    reasons[FC1] = "lowrank: would not shrink"
    folder = save_artifact(backbone, encodings=encodings, reasons=reasons).folder
    text = (folder / "manifest.json").read_text()
    assert ": " not in text.replace("int4: too", "")
    manifest = json.loads(text)
    assert manifest["adapter"] == "hf_clip"
    entries = Reader(folder, manifest).entries
    assert {e.name: e.why for e in entries.values() if e.why} == {
        EMBEDDING: "int4: too small",
        PATCH: "int4: too small",
    }
    assert len(entries) == len(backbone.model.state_dict())
    assert entries[EMBEDDING] == Entry(
        EMBEDDING, (48, 32), "float32", "text", "embed", "int4: too small"
    )
    assert manifest["dense"] == {"bytes": 100_000, "parameters": 25_000, "dtype": "float32"}
    assert manifest["run"] == {"config_hash": "0", "recipe": "test"}
    row = entries[FC1].row
    assert row is not None
    codes, scale = row[1:]
    assert [e.row for e in entries.values() if e.row] == [[0, codes, scale]]
    assert manifest["codecs"] == {"ans": 1, "planes": 1, "quantize": 1}
    (kind,) = manifest["kinds"]
    assert kind["steps"] == ["integer"]
    assert kind["payloads"] == {"codes": "uint8", "scale": "uint8"}
    assert kind["chain"] == [
        {"codec": "quantize", "bits": 4, "group_size": 16},
        {"codec": "ans", "of": ["codes"]},
        {"codec": "planes", "of": {"scale": "float16"}},
    ]
    assert scale < 64 * 2 * 2  # two groups in each of 64 rows, float16
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        assert set(tensors.keys()) == {"payloads", "dense.float32.planes"}
        assert len(tensors.get_tensor("payloads")) == codes + scale


def test_manifest_and_header_stay_small(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    """A weight costs its key and a few numbers; a dense tensor costs nothing."""
    state = backbone.model.state_dict()
    keys = [t.name for t in backbone.targets() if t.granularity == "linear"]
    few, many = (
        save_artifact(
            backbone, str(n), encodings={k: encode_as("pruned+int4", state[k]) for k in keys[:n]}
        )
        for n in (1, len(keys))
    )
    sizes = [
        {r.payload: r.bytes for r in a.ledger() if r.payload in ("header", "manifest")}
        for a in (few, many)
    ]
    assert sizes[1]["header"] < 200
    added = sum(len(key) for key in keys[1:])
    kinds = len(json.dumps(many.manifest["kinds"])) - len(json.dumps(few.manifest["kinds"]))
    assert sizes[1]["manifest"] - sizes[0]["manifest"] < added + kinds + 30 * len(keys)
    assert len(many.manifest["kinds"]) <= 4


def test_order_in_the_state_dict_does_not_matter(backbone: HFClip, save_artifact: Save) -> None:
    """Removing a parametrization moves a weight behind its bias; a skeleton has it before."""
    layer = backbone.model.vision_model.encoder.layers[0].mlp.fc1
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    parametrize.remove_parametrizations(layer, "weight")
    assert list(layer.state_dict()) == ["bias", "weight"]
    loaded = Artifact.load(save_artifact(backbone).folder).backbone.model.state_dict()
    assert list(loaded) != list(backbone.model.state_dict())
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def test_shared_codebook_is_stored_once(
    backbone: HFClip, encode_as: EncodeAs, save_artifact: Save
) -> None:
    state, second = backbone.model.state_dict(), FC1.replace("layers.0", "layers.1")
    encodings = {key: encode_as("blocks", state[key]) for key in (FC1, second)}
    codebook = encodings[FC1].tensors["codebook"]
    encodings[second].tensors["codebook"] = codebook
    state[second].copy_(lookup(encodings[second].tensors["indices"], codebook, state[FC1].shape))
    saved = save_artifact(backbone, encodings=encodings)
    entries = Reader(saved.folder, saved.manifest).entries
    own, other = (entries[key].row for key in (FC1, second))
    assert (own[1], other[1]) == (codebook.nbytes, FC1)
    assert_same_model(Artifact.load(saved.folder).backbone, backbone)
    rows = [row for row in saved.ledger() if row.payload == "codebook"]
    assert [(row.tensor, row.bytes) for row in rows] == [(FC1, codebook.nbytes)]
    assert [r.note.endswith(f", codebook of {FC1}") for r in saved.ledger() if r.tensor == second]
    assert sum(row.bytes for row in saved.ledger()) == saved.bytes


def test_folder_has_ordinary_permissions(backbone: HFClip, save_artifact: Save) -> None:
    folder = save_artifact(backbone).folder
    beside = folder.parent / "beside"
    beside.mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(beside.stat().st_mode)
