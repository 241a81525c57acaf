"""OpenVINO's graphs, read from those of an ONNX export: the integers stay as they are.

OpenVINO reads `MatMulNBits`. It makes `FakeQuantize` of inputs that are rounded between fixed ends,
and multiplies these as whole numbers. It would make 32 bits of each weight of `MatMulInteger`, so
inputs that have a scale for each token are rounded in floats.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcompress.artifact.folder import Artifact
from mmcompress.exports.onnx.folder import identity, write_folder
from mmcompress.exports.rounding import Ranges
from mmcompress.inputs.export import FILE
from mmcompress.system.extras import require_package
from mmcompress.system.files import folder_atomically, write_json

GRAPH_FILES = (".onnx", ".data")


def write_openvino(
    artifact: Artifact,
    folder: Path,
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
) -> None:
    """Write what `mmcompress.runtime.openvino` loads.

    Args:
        artifact: of `Artifact.load`.
        folder: to create.
        activations, ranges: of `write_towers`.
    Raises:
        ValueError: OpenVINO is missing, a graph or the preparation of its inputs cannot be
            expressed, or `folder` exists.
    """
    with folder_atomically(folder) as temporary:
        fill_folder(artifact, temporary, activations=activations, ranges=ranges)


def fill_folder(
    artifact: Artifact,
    folder: Path,
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
) -> None:
    """The same, into a folder that is there and empty."""
    require_package("openvino", extra="openvino", asks="writing OpenVINO graphs")
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "onnx"
        write_folder(artifact, source, activations=activations, ranges=ranges, runtime="openvino")
        manifest = json.loads((source / FILE).read_bytes())
        before = manifest["tensors"]
        manifest |= {"runtime": "openvino", "tensors": []}
        for modality, tower in manifest["towers"].items():
            file = f"{modality}.xml"
            rows = [row for row in before if row["tower"] == modality]
            for constant in convert(source / tower["file"], folder / file, modality):
                manifest["tensors"].append({"tower": modality} | constant | _origin(constant, rows))
            tower["file"] = file
        for other in sorted(source.iterdir()):
            if other.name != FILE and other.suffix not in GRAPH_FILES:
                shutil.copy(other, folder)
    manifest["files"] = {file.name: identity(file) for file in sorted(folder.iterdir())}
    write_json(folder / FILE, manifest)


def convert(source: Path, file: Path, modality: str) -> list[dict[str, Any]]:
    """Write one graph; gives back `name`, `container` and `bytes` of each of its constants.

    Raises:
        ValueError: OpenVINO cannot read it.
    """
    import openvino

    try:
        graph = openvino.convert_model(source)
    except openvino.frontend.OpConversionFailure as error:
        raise ValueError(
            f"OpenVINO cannot read the {modality} tower ({str(error).strip().splitlines()[-1]}): "
            "set --to onnx"
        ) from error
    openvino.save_model(graph, file, compress_to_fp16=False)
    return [
        {
            "name": node.friendly_name,
            "container": node.get_element_type().get_type_name(),
            "bytes": node.get_byte_size(),
        }
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Constant"
    ]


def _origin(constant: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Whether a constant is what the artifact decodes to, and has lost its codes, by the row of the
    ONNX graph that it comes from; scales and what is folded come from none."""
    name = constant["name"].removeprefix("backbone.model.")
    origin = (row for row in rows if name.startswith(row["name"].removesuffix(".weight")))
    found = next(origin, {"exact": True, "decoded": False})
    return {"exact": found["exact"], "decoded": found["decoded"]}
