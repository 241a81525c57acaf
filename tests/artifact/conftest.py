"""A saved artifact to read, and the means to forge one."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.artifact.load import describe_tensors
from mmcompress.artifact.skeleton import build_skeleton
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.format.codecs.table import LATEST
from mmcompress.format.manifest import sign
from mmcompress.format.names import Entry, from_tree, to_tree
from mmcompress.format.reader import file_checksum
from mmcompress.format.table import read_table
from mmcompress.functional.float8 import from_float8, to_float8
from mmcompress.functional.integers import dequantize, quantize
from mmcompress.functional.lookup import lookup


def make_backbone(seed: int = 0) -> HFClip:
    """A CLIP of two layers and 32 features, random weights."""
    words = ["<start>", "<end>", "cat", "dog", "red"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()
    layers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = layers | {
        "vocab_size": 48,
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = layers | {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HFClip(CLIPModel(config), tokenizer).eval()


@pytest.fixture
def backbone() -> HFClip:
    return make_backbone()


def int_encoding(weight: Tensor, *, bits: int, group_size: int, symmetric: bool) -> Encoding:
    """Round `weight` in place to a grid; how to store it."""
    matrix = weight.view(len(weight), -1)
    groups = matrix.view(len(matrix), -1, group_size)
    if symmetric:
        scale, zero_point = (groups.abs().amax(-1) / (2 ** (bits - 1) - 1)).half(), None
    else:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = (high - low) / (2**bits - 1)
        zero_point = (-low / scale).round().to(torch.uint8)
    codes = quantize(matrix, scale, zero_point, bits=bits, group_size=group_size)
    matrix.copy_(dequantize(codes, scale, zero_point, group_size=group_size) + 0.0)
    tensors = {"scale": scale} if zero_point is None else {"scale": scale, "zero_point": zero_point}
    values = {"codec": "quantize", "bits": bits, "group_size": group_size}
    return Encoding(steps=["integer"], values=values, tensors=tensors)


def midrise_encoding(weight: Tensor, *, bits: int) -> Encoding:
    """Round `weight` in place to a midrise grid with a factor per column; how to store it."""
    matrix = weight.view(len(weight), -1)
    sides = {"scale": torch.rand(len(matrix), 1).half() + 0.5}
    sides["column_scale"] = torch.rand(matrix.shape[1]) + 0.5
    options = {"group_size": matrix.shape[1], "midrise": True}
    options["column_scale"] = sides["column_scale"]
    codes = quantize(matrix, sides["scale"], None, bits=bits, **options)
    matrix.copy_(dequantize(codes, sides["scale"], None, **options))
    values = {"codec": "quantize", "bits": bits, "group_size": matrix.shape[1], "grid": "midrise"}
    return Encoding(steps=["binary"], values=values, tensors=sides)


def real_zero_encoding(weight: Tensor, *, bits: int, group_size: int) -> Encoding:
    """Round `weight` in place to a grid with a real-valued zero point; how to store it."""
    matrix = weight.view(len(weight), -1)
    shape = (len(matrix), matrix.shape[1] // group_size)
    scale, zero = torch.rand(shape).half() + 0.1, (torch.rand(shape) * 2**bits).half()
    codes = quantize(matrix, scale, zero, bits=bits, group_size=group_size)
    matrix.copy_(dequantize(codes, scale, zero, group_size=group_size) + 0.0)
    values = {"codec": "quantize", "bits": bits, "group_size": group_size}
    return Encoding(steps=["hqq"], values=values, tensors={"scale": scale, "zero_point": zero})


def float8_encoding(weight: Tensor) -> Encoding:
    """Round `weight` in place to 8-bit floats; how to store it."""
    matrix = weight.view(len(weight), -1)
    columns = matrix.shape[1]
    scale = matrix.abs().amax(dim=1, keepdim=True) / 448
    codes = to_float8(matrix, scale, group_size=columns)
    matrix.copy_(from_float8(codes, scale, group_size=columns) + 0.0)
    values = {"codec": "float8", "format": "e4m3", "group_size": columns}
    return Encoding(steps=["fp8"], values=values, tensors={"scale": scale})


def codebook_encoding(weight: Tensor, *, entries: int, block_size: int) -> Encoding:
    """Replace blocks of `weight` in place by random entries; how to store it."""
    indices = torch.randint(0, entries, (weight.numel() // block_size,))
    codebook = torch.randn(entries, block_size)
    weight.copy_(lookup(indices, codebook, weight.shape))
    tensors = {"indices": indices, "codebook": codebook}
    return Encoding(steps=["sharing"], values={"codec": "codebook"}, tensors=tensors)


def prune(weight: Tensor, encoding: Encoding, sparsity: float) -> Encoding:
    """Zero random weights in place."""
    encoding.mask = torch.rand(weight.shape) >= sparsity
    weight.masked_fill_(~encoding.mask, 0.0)
    encoding.steps.insert(0, "prune")
    return encoding


def encode_as(kind: str, weight: Tensor) -> Encoding:
    """Bake a random encoding of one kind into `weight`, which changes in place."""
    columns = weight[0].numel()
    with torch.no_grad():
        match kind.split("+"):
            case ["pruned"]:
                return prune(weight, Encoding(), 0.7)
            case ["pruned", base]:
                return prune(weight, encode_as(base, weight), 0.7)
            case ["int8"]:
                return int_encoding(weight, bits=8, group_size=columns, symmetric=True)
            case ["int4"]:
                return int_encoding(weight, bits=4, group_size=16, symmetric=True)
            case ["uint3"]:
                return int_encoding(weight, bits=3, group_size=8, symmetric=False)
            case ["binary"]:
                return midrise_encoding(weight, bits=1)
            case ["midrise3"]:
                return midrise_encoding(weight, bits=3)
            case ["hqq"]:
                return real_zero_encoding(weight, bits=2, group_size=8)
            case ["fp8"]:
                return float8_encoding(weight)
            case ["scaled"]:
                encoding = codebook_encoding(weight, entries=7, block_size=4)
                encoding.tensors["scale"] = torch.rand(len(weight), 1)
                encoding.values["group_size"] = columns
                parts = (encoding.tensors[name] for name in ("indices", "codebook"))
                weight.copy_(lookup(*parts, weight.shape, encoding.tensors["scale"]))
                return encoding
            case ["cluster"]:
                return codebook_encoding(weight, entries=5, block_size=1)
            case ["blocks"]:
                return codebook_encoding(weight, entries=7, block_size=4)
            case ["rows"]:
                return codebook_encoding(weight, entries=3, block_size=columns)
    raise AssertionError(kind)


KINDS = [
    *["int8", "int4", "uint3", "cluster", "blocks", "rows", "pruned"],
    *["binary", "midrise3", "hqq", "fp8", "scaled", "pruned+binary", "pruned+hqq", "pruned+fp8"],
    *["pruned+int8", "pruned+int4", "pruned+uint3", "pruned+cluster", "pruned+blocks"],
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of encoding in turn."""
    return request.param


@pytest.fixture(name="encode_as")
def _encode_as() -> Callable[[str, Tensor], Encoding]:
    torch.manual_seed(0)
    return encode_as


@pytest.fixture
def save_artifact(tmp_path: Path) -> Callable[..., Artifact]:
    """`Artifact.save` to a folder of the test, all that it does not care about filled in."""

    def save(backbone: HFClip, folder: str = "artifact", **arguments: Any) -> Artifact:
        defaults = {
            "structure": [],
            "encodings": {},
            "reasons": {},
            "dense_bytes": 100_000,
            "dense_parameters": 25_000,
            "run": {"config_hash": "0", "recipe": "test"},
        }
        return Artifact.save(tmp_path / folder, backbone, **(defaults | arguments))

    return save


class Forger:
    """Edits an artifact and signs it again, so that checksums hold and later checks must catch it.

    Attributes:
        folder: of the artifact.
        manifest: to edit; `write` signs it.
        entries: what it says of each tensor, to edit.
        rows: how each encoded weight is stored, by its key, to edit.
        tensors: to edit; `write` stores them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        tree = copy.deepcopy(self.manifest["tensors"])  # rows are edited
        self.entries = from_tree(self.manifest["forms"], tree, 10**6)
        self.rows = {name: e.row for name, e in self.entries.items() if e.row is not None}
        self._tree = copy.deepcopy([self.manifest["forms"], self.manifest["tensors"]])
        self.tensors: dict[str, np.ndarray] = load_file(folder / "model.safetensors")

    def own_kind(self, key: str) -> dict[str, Any]:
        """The kind of one weight, to edit, no other weight's any more; it may name any codec."""
        self.manifest["codecs"] = dict(LATEST)
        row, kinds = self.rows[key], self.manifest["kinds"]
        kinds.append(copy.deepcopy(kinds[row[0]]))
        row[0] = len(kinds) - 1
        return kinds[-1]

    def replace(self, key: str, name: str, payload: np.ndarray) -> None:
        """Another payload in place of a weight's, its length and dtype stated truly."""
        entries = {k: replace(e, row=self.rows.get(k)) for k, e in self.entries.items()}
        table = read_table(self.manifest["kinds"], entries, [len(entries)])
        part = table[key].parts[name]
        before, after = part.start, part.start + part.length
        stored, new = self.tensors["payloads"], payload.reshape(-1).view(np.uint8)
        self.tensors["payloads"] = np.concatenate([stored[:before], new, stored[after:]])
        kind = self.own_kind(key)
        kind["payloads"][name] = payload.dtype.name
        self.rows[key][1 + sorted(kind["payloads"]).index(name)] = len(new)

    def fit(self) -> None:
        """State the tensors of the model that the manifest describes now."""
        path = self.folder / "manifest.json"
        skeleton = build_skeleton(self.manifest, self.folder, path=path, on_meta=True)
        self.entries = {entry.name: entry for entry in describe_tensors(skeleton)}

    def write(self) -> Path:
        """Both files; returns the folder."""
        save_file(self.tensors, self.folder / "model.safetensors")
        return self.sign()

    def sign(self) -> Path:
        """The manifest only, with the size and checksum that the tensor file has now."""
        file = self.folder / "model.safetensors"
        # Else the tree is forged itself.
        if [self.manifest["forms"], self.manifest["tensors"]] == self._tree:
            entries: list[Entry] = [
                replace(entry, row=self.rows.get(name)) for name, entry in self.entries.items()
            ]
            self.manifest["forms"], self.manifest["tensors"] = to_tree(entries)
            self._tree = copy.deepcopy([self.manifest["forms"], self.manifest["tensors"]])
            if self.manifest["files"]:
                self.manifest["files"][0]["tensors"] = len(entries)
        if self.manifest["files"]:
            about = {"bytes": file.stat().st_size, "sha256": file_checksum(file)}
            self.manifest["files"][0] |= about
        (self.folder / "manifest.json").write_bytes(sign(self.manifest))
        return self.folder


Forge = Callable[..., Forger]


@pytest.fixture
def forge(save_artifact: Callable[..., Artifact], backbone: HFClip) -> Forge:
    """Save an artifact whose named weights are encoded, and open it for forgery."""

    def make(encoded: dict[str, str] | None = None) -> Forger:
        torch.manual_seed(0)
        state = backbone.model.state_dict()
        encodings = {key: encode_as(kind, state[key]) for key, kind in (encoded or {}).items()}
        return Forger(save_artifact(backbone, encodings=encodings).folder)

    return make
