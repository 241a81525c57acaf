"""One recipe on one family of models, written for every runtime and library, and read back."""

import copy
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, Generator
from mmcompress.backbones.hf.files import FromTransformers
from mmcompress.exports.check import READERS, check_found, write_items
from mmcompress.exports.compressed_tensors.initialization import looked_for
from mmcompress.exports.compressed_tensors.layers import without_rounding
from mmcompress.exports.summary import Contained
from mmcompress.exports.targets import TARGETS, export
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.runtime.exported import embed_items
from mmcompress.testing.contract import build_recipe
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.family import batch_of

COLUMNS: dict[str, tuple[str, str | None]] = {
    "onnx": ("onnx", None),
    "openvino": ("openvino", None),
    "compressed-tensors": ("compressed-tensors", "transformers"),
    "compressed-tensors, vllm": ("compressed-tensors", "vllm"),
    "open_clip": ("open_clip", None),
    "hf": ("hf", None),
}
"""Heading → `--to` and `--target` of `mmcompress export`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one export.

    Attributes:
        kind: `written`, `refused`, or `broken`.
        reason: the error's sentence; empty where it was written.
        floats: share of the bytes whose codes are floats in the export.
        rounded: share of the bytes that are not what the artifact decodes to.
        compared: whether it was read back; transformers embeds nothing by a model that writes
            captions, and does not load some checkpoints for vLLM.
        largest: difference of a value of two embeddings of the same item.
        cosine: least mean cosine of a modality.
    """

    kind: str
    reason: str = ""
    floats: float = 0.0
    rounded: float = 0.0
    compared: bool = True
    largest: float = 0.0
    cosine: float = 1.0


@dataclass(frozen=True)
class Line:
    """One recipe on one family.

    Attributes:
        recipe, family: names.
        refused: the sentence with which the recipe refuses the model; empty where it applies.
        rounds_inputs: whether layers round what they read, so that embeddings are close alone.
        outcomes: by heading of `COLUMNS`.
    """

    recipe: str
    family: str
    refused: str = ""
    rounds_inputs: bool = False
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> "Line":
        found = {name: Outcome(**outcome) for name, outcome in row["outcomes"].items()}
        return cls(**{**row, "outcomes": found})


def export_all(recipe: str, family: str) -> Line:
    """Compress the family's model, and write it for every column.

    What is written is read in this process, by the program that `mmcompress export --test` starts:
    starting one takes longer than all else with so small a model.
    """
    dense = _built(family)[0]
    made = build_recipe(recipe, dense_dtype=None)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            compressed = made.apply(copy.deepcopy(dense), [batch_of(dense)])
        except ValueError as error:
            return Line(recipe, family, refused=str(error))
        compressed.finalize()
        compressed.save(folder / "artifact", run={"config_hash": "", "recipe": recipe})
        artifact = Artifact.load(folder / "artifact", skeleton=lambda: copy.deepcopy(dense))
        (folder / "items").mkdir()
        model = artifact.backbone
        inputs = write_items(model, folder / "items") if isinstance(model, Encoder) else {}
        rounds = any(isinstance(module, QuantizedInput) for module in model.modules())
        outcomes = {name: _export(artifact, inputs, name, folder) for name in COLUMNS}
    return Line(recipe, family, rounds_inputs=rounds, outcomes=outcomes)


@lru_cache(maxsize=1)
def _built(family: str) -> tuple[Backbone, Any]:
    """The family's model, and the folder of its files, which open_clip reads again."""
    folder = tempfile.TemporaryDirectory()
    return FAMILIES[family].build(Path(folder.name)), folder


def _export(artifact: Artifact, inputs: Mapping[str, Tensor], name: str, folder: Path) -> Outcome:
    to, program = COLUMNS[name]
    out = folder / name
    try:
        written = export(artifact, to, out, program=program).written
    except ValueError as error:
        return Outcome("refused", str(error).replace(f"{artifact.folder}", "the artifact"))
    # Whatever else a library raises is what the page is to show.
    except Exception as error:
        return Outcome("broken", f"{type(error).__name__}: {error}".splitlines()[0])
    floats = _share(written.tensors, lambda tensor: tensor.decoded)
    rounded = _share(written.tensors, lambda tensor: not tensor.exact)
    if not _is_read(artifact, to, program):
        return Outcome("written", floats=floats, rounded=rounded, compared=False)
    try:
        found = read_here(TARGETS[to].reader, out, folder / "items")
        assert isinstance(artifact.backbone, Encoder)
        difference = check_found(artifact.backbone, inputs, found)
    except Exception as error:
        return Outcome("broken", f"{type(error).__name__}: {error}".splitlines()[0])
    return Outcome(
        "written",
        floats=floats,
        rounded=rounded,
        largest=max(difference.largest.values()),
        cosine=min(difference.cosine.values()),
    )


def _is_read(artifact: Artifact, to: str, program: str | None) -> bool:
    backbone = artifact.backbone
    if program == "vllm":
        assert isinstance(backbone, FromTransformers)
        if looked_for(without_rounding(backbone)[0].native_model()):
            return False
    return not isinstance(backbone, Generator)


def read_here(reader: str, folder: Path, items: Path) -> dict[str, np.ndarray]:
    """Modality → embeddings (N, D) of the items, by a program of `mmcompress/readers/`.

    Args:
        reader: its name.
        folder: of the export.
        items: of `write_items`.
    Raises:
        ValueError: the program ends with a sentence of its own.
    """
    if reader == "with_graphs":  # it keeps torch out of its process
        return embed_items(folder, items)
    out = items / "embeddings.npz"
    with _words(str(folder), str(items), str(out)):
        try:
            runpy.run_path(str(READERS / f"{reader}.py"), run_name="__main__")
        except SystemExit as end:
            raise ValueError(str(end)) from end
    with np.load(out) as found:
        return dict(found)


@contextmanager
def _words(*words: str) -> Iterator[None]:
    """A command line for a program that runs in this process."""
    before = sys.argv
    sys.argv = ["program", *words]
    try:
        yield
    finally:
        sys.argv = before


def _share(tensors: Sequence[Contained], counts: Callable[[Contained], bool]) -> float:
    """Of the bytes."""
    total = sum(tensor.bytes for tensor in tensors)
    return sum(t.bytes for t in tensors if counts(t)) / total if total else 0.0
