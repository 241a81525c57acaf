"""OpenVINO's graphs, read from those of an ONNX export: the integers stay as they are.

OpenVINO's front end reads `MatMulNBits`. The weights of whole-number products (`MatMulInteger`)
become floats there, and the lines of the export say so.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mmcompress.artifact.folder import Artifact
from mmcompress.exports.onnx.folder import identity, write_folder
from mmcompress.inputs.export import FILE
from mmcompress.system.extras import require_package
from mmcompress.system.files import folder_atomically, write_json

GRAPH_FILES = (".onnx", ".data")


def write_openvino(artifact: Artifact, folder: Path) -> None:
    """Write what `mmcompress.runtime.openvino` loads.

    Args:
        artifact: of `Artifact.load`.
        folder: to create.
    Raises:
        ValueError: OpenVINO is missing, a graph or the preparation of its inputs cannot be
            expressed, or `folder` exists.
    """
    with folder_atomically(folder) as temporary:
        fill_folder(artifact, temporary)


def fill_folder(artifact: Artifact, folder: Path) -> None:
    """The same, into a folder that is there and empty."""
    require_package("openvino", extra="openvino", asks="writing OpenVINO graphs")
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "onnx"
        write_folder(artifact, source)
        manifest = json.loads((source / FILE).read_bytes())
        manifest |= {"runtime": "openvino", "tensors": []}
        for modality, tower in manifest["towers"].items():
            file = f"{modality}.xml"
            manifest["tensors"] += _convert(source / tower["file"], folder / file, modality)
            tower["file"] = file
        for other in sorted(source.iterdir()):
            if other.name != FILE and other.suffix not in GRAPH_FILES:
                shutil.copy(other, folder)
    manifest["files"] = {file.name: identity(file) for file in sorted(folder.iterdir())}
    write_json(folder / FILE, manifest)


def _convert(source: Path, file: Path, modality: str) -> list[dict[str, Any]]:
    """Write one graph; gives back a row for each of its tensors, as the manifest holds them."""
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
            "tower": modality,
            "name": node.friendly_name,
            "container": node.get_element_type().get_type_name(),
            "bytes": node.get_byte_size(),
            "exact": True,
        }
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Constant"
    ]
