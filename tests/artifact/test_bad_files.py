"""Files that are missing, cut short, changed, too new, or lead out of the folder are refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mmcompress.artifact.folder import Artifact
from mmcompress.format.errors import ArtifactError
from mmcompress.format.reader import read_manifest
from tests.artifact.refusal import FC1, PRUNED, Forge, refuse


def test_forged_artifacts_load_when_nothing_is_wrong(forge: Forge) -> None:
    Artifact.load(forge(PRUNED).write())


def test_missing_folder_and_files(forge: Forge, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "is no folder")
    folder = forge().folder
    for name in ("tokenizer.json", "model.safetensors", "manifest.json"):
        (folder / name).unlink()
        refuse(folder, f"{name}: is missing")


def test_truncated(forge: Forge) -> None:
    folder = forge(PRUNED).folder
    for name, message in [("model.safetensors", "bytes where"), ("manifest.json", "is no JSON")]:
        file = folder / name
        data = file.read_bytes()
        for length in (0, 7, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:length])
            refuse(folder, message)
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "tokenizer.json"])
def test_one_flipped_byte_anywhere(name: str, forge: Forge) -> None:
    folder = forge(PRUNED).folder
    file = folder / name
    data = file.read_bytes()
    for bit in range(8):
        for offset in range(bit, len(data), max(len(data) // 40, 1)):
            damaged = bytearray(data)
            damaged[offset] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(ArtifactError):
                read_manifest(folder)
    file.write_bytes(data)
    Artifact.load(folder)


def test_newer_format(forge: Forge) -> None:
    forger = forge()
    forger.manifest["format_version"] = 4
    refuse(forger.sign(), "format version 4, newer than 3; upgrade mmcompress")


def test_older_format(forge: Forge) -> None:
    folder = forge().folder
    (folder / "manifest.json").write_text('{"format_version":1,"weights":{}}')
    refuse(folder, "format version 1, which is no longer read; save it again with this version")


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "..", "", "a\\b", "x\n"])
def test_names_that_leave_the_folder(name: str, forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    kind = forger.own_kind(FC1)
    kind["payloads"][name] = kind["payloads"].pop("scale")
    refuse(forger.sign(), "payloads are .*, expected")
    forger.manifest["assets"] = {name: "0" * 64}
    refuse(forger.write(), "names an asset .* that is no plain file name")


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "tokenizer.json"])
def test_link_out_of_the_folder(name: str, forge: Forge, tmp_path: Path) -> None:
    folder = forge().folder
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refuse(folder, "points out of the artifact's folder")


def test_pickle_in_place_of_the_tensors(forge: Forge) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("the pickle was executed",)

    forger = forge()
    file = forger.folder / "model.safetensors"
    file.write_bytes(pickle.dumps(Bomb()))
    refuse(forger.folder, "model.safetensors: has .* bytes where")
    refuse(forger.sign(), "is no valid safetensors file")
    torch.save({"state": torch.zeros(3)}, file)
    refuse(forger.sign(), "is no valid safetensors file")


def test_safetensors_header_that_lies(forge: Forge) -> None:
    forger = forge()
    file = forger.folder / "model.safetensors"
    save_file({"x": np.zeros(4, np.float32)}, file)
    file.write_bytes(file.read_bytes().replace(b'"shape":[4]', b'"shape":[9]'))
    refuse(forger.sign(), "is no valid safetensors file")
    for offsets in ("[0,15]", "[0,17]", "[-1,15]", "[4,16]", "[16,0]", f"[0,{2**70}]"):
        save_file({"x": np.zeros(4, np.float32)}, file)
        header = file.read_bytes()[8:-16].replace(b"[0,16]", offsets.encode()).strip()
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        refuse(forger.sign(), "is no valid safetensors file")
    file.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    refuse(forger.sign(), "is no valid safetensors file")
