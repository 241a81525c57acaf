"""One ONNX graph for each tower of an artifact."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, encoder
from mmcompress.exports.onnx import graph
from mmcompress.exports.onnx.hold import Holding, hold
from mmcompress.exports.rounding import Ranges
from mmcompress.format.reader import Reader, StoredWeight

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

READS = {"image": "pixel_values", "text": "input_ids", "audio": "input_features"}
"""Modality → what its graph calls its input."""

BATCH = 3
"""Inputs that a graph is traced with; that it takes any number follows from no 3 being in it."""


@dataclass(frozen=True)
class Feed:
    """One input or output of a graph.

    Attributes:
        name: in the graph.
        dtype: of numpy, such as `float32` or `int64`.
        shape: None for a dimension of any size.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Row:
    """What became of one tensor of the model.

    Attributes:
        name: its key in the model's state dict.
        container: what holds it, such as `MatMulNBits 4 bits` or `float16`.
        bytes: in the graph's file.
        exact: whether it holds what the artifact decodes to; where `container` says so, inputs
            are rounded all the same.
        decoded: whether the artifact has codes of it and the graph floats.
    """

    name: str
    container: str
    bytes: int
    exact: bool = True
    decoded: bool = False


@dataclass(frozen=True)
class Tower:
    """One graph.

    Attributes:
        modality: `image`, `text` or `audio`.
        file: name of the graph's file in its folder.
        inputs: what it reads, the first dimension free.
        output: L2-normalized embeddings (B, D), as `Encoder.encode` gives them.
        rows: of all tensors that it holds, a tensor that stands in several places once.
        rounds_inputs: whether linear layers read integers, so that rounding may fall either way
            where two libraries add in another order.
    """

    modality: str
    file: str
    inputs: tuple[Feed, ...]
    output: Feed
    rows: tuple[Row, ...]
    rounds_inputs: bool = False


ACTIVATIONS = (None, "int8", "static_int8")


def write_towers(
    artifact: Artifact,
    folder: Path,
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
    runtime: str = "onnx",
) -> list[Tower]:
    """Write `image.onnx`, `text.onnx`, `audio.onnx`: those that the model has.

    Args:
        artifact: of `Artifact.load`.
        folder: exists; tensors of more than 16 MB lie in `<tower>.onnx.data`, beside the graph.
        activations: `int8` for inputs of linear layers in 8 bits, one scale for a whole tensor,
            found while the graph runs; `static_int8` for one that is fixed; None for what the
            artifact says.
        ranges: of `input_ranges`, for `static_int8`.
        runtime: of `hold`.
    Raises:
        ValueError: no such `activations`, the model embeds nothing, no layer can round its inputs,
            or the exporter refuses it.
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations={activations!r} must be int8, static_int8, or left out")
    assert (ranges is not None) == (activations == "static_int8")
    model = _encoder(artifact.backbone)
    with Reader(artifact.folder, artifact.manifest) as reader:
        aliases = artifact.manifest["aliases"]

        def find(key: str) -> StoredWeight | None:
            name = aliases.get(key, key)
            return reader.get(name) if name in reader.entries else None

        holding = hold(
            model,
            find,
            integer=activations == "int8",
            ranges=ranges,
            runtime=runtime,
        )
    return [_write(holding, modality, folder) for modality in model.modalities]


def write_dense_towers(backbone: Backbone, folder: Path) -> list[Tower]:
    """The same of a dense model, all in float32: what an artifact's towers are compared with.

    Args:
        backbone: with its weights, in float32.
        folder: of `write_towers`.
    Raises:
        ValueError: the model embeds nothing, or the exporter refuses it.
    """
    model = _encoder(backbone)
    return [_write(Holding(model, {}), modality, folder) for modality in model.modalities]


def _encoder(backbone: Backbone) -> Encoder:
    return encoder(backbone, "an ONNX graph gives", "keep the artifact")


def _write(holding: Holding, modality: str, folder: Path) -> Tower:
    model, file = holding.backbone, f"{modality}.onnx"
    program = graph.trace(
        _Tower(model, modality).eval(),
        example_of(model, modality),
        reads=READS[modality],
        gives=f"{modality}_embeds",
    )
    graph.write(program, folder / file)
    inputs = tuple(_feed(value) for value in program.model.graph.inputs)
    rows, output = rows_in(program, holding), _feed(program.model.graph.outputs[0])
    return Tower(modality, file, inputs, output, rows, holding.rounds_inputs)


def rows_in(program: "ONNXProgram", holding: Holding) -> tuple[Row, ...]:
    """Every tensor of the model that a graph holds, and how."""
    owners = {
        id(buffer): (key, held) for key, held in holding.held.items() for buffer in held.buffers()
    }
    names = dict(_Tower(holding.backbone, "").state_dict(keep_vars=True))
    found: dict[str, Row] = {}
    for name, value in program.model.graph.initializers.items():
        key, held = owners.get(id(names.get(name)), (name.removeprefix("backbone.model."), None))
        assert value.const_value is not None, name
        size = value.const_value.nbytes
        if held is None:
            found[key] = Row(key, value.const_value.dtype.numpy().name, size)
        else:
            size += found[key].bytes if key in found else 0
            found[key] = Row(key, held.container, size, held.exact, held.decoded)
    return tuple(found.values())


def example_of(backbone: Backbone, modality: str) -> Tensor:
    """A batch of one modality, as the model's own preprocessing makes it of a plain input."""
    if modality == "image":
        picture = Image.new("RGB", (64, 64), "gray")
        return torch.stack([backbone.preprocess(picture)] * BATCH)
    if modality == "audio":
        second = torch.arange(backbone.sampling_rate) / backbone.sampling_rate
        return backbone.preprocess_audio([torch.sin(440 * 2 * torch.pi * second)] * BATCH)
    return backbone.tokenize(["a photo of a cat and a dog on a table"] * BATCH)


class _Tower(nn.Module):
    """What is traced: `encode` of one modality."""

    def __init__(self, backbone: Encoder, modality: str) -> None:
        super().__init__()
        self.backbone, self.modality = backbone, modality

    def forward(self, inputs: Tensor) -> Tensor:
        return self.backbone.encode(self.modality, inputs)


def _feed(value: object) -> Feed:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)  # type: ignore[attr-defined]
    return Feed(value.name, value.dtype.numpy().name, shape)  # type: ignore[attr-defined]
