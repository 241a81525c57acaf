"""One ONNX graph for each tower of an artifact."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, encoder
from mmcompress.exports.onnx import graph

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
        exact: whether what is computed with is what the artifact decodes to.
    """

    name: str
    container: str
    bytes: int
    exact: bool = True


@dataclass(frozen=True)
class Tower:
    """One graph.

    Attributes:
        modality: `image`, `text` or `audio`.
        file: name of the graph's file in its folder.
        inputs: what it reads, the first dimension free.
        output: L2-normalized embeddings (B, D), as `Encoder.encode` gives them.
        rows: of all tensors that it holds, a tensor that stands in several places once.
    """

    modality: str
    file: str
    inputs: tuple[Feed, ...]
    output: Feed
    rows: tuple[Row, ...]


def write_towers(
    artifact: Artifact, folder: Path, *, activations: str | None = None
) -> list[Tower]:
    """Write `image.onnx`, `text.onnx`, `audio.onnx`: those that the model has.

    Args:
        artifact: of `Artifact.load`.
        folder: exists; a graph of more than 1.5 GB has its tensors in a file beside it.
        activations: `int8` for inputs of linear layers in 8 bits, one scale for a whole tensor,
            found while the graph runs; None for floats.
    Raises:
        ValueError: the model embeds nothing, or the exporter refuses it.
    """
    asks, fix = "a graph gives", "keep the artifact"
    model = encoder(artifact.backbone, asks, fix)
    return [_write(model, modality, folder) for modality in model.modalities]


def _write(model: Encoder, modality: str, folder: Path) -> Tower:
    example, gives = example_of(model, modality), f"{modality}_embeds"
    tower = _Tower(model, modality).eval()
    program = graph.trace(tower, example, reads=READS[modality], gives=gives)
    file = f"{modality}.onnx"
    graph.write(program, folder / file)
    rows = [
        Row(name.removeprefix("backbone.model."), str(value.dtype), value.const_value.nbytes)
        for name, value in program.model.graph.initializers.items()
        if value.const_value is not None
    ]
    inputs = tuple(_feed(value) for value in program.model.graph.inputs)
    return Tower(modality, file, inputs, _feed(program.model.graph.outputs[0]), tuple(rows))


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
