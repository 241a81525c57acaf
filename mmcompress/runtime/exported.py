"""Opening an export with what it was written for. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from mmcompress.inputs.export import FILE, is_export
from mmcompress.runtime.graphs import GraphModel
from mmcompress.runtime.onnx import OnnxModel
from mmcompress.runtime.openvino import OpenVINOModel

GRAPHS: dict[str, type[GraphModel]] = {"onnx": OnnxModel, "openvino": OpenVINOModel}
"""By the name of the runtime."""


def open_export(folder: Path, **settings: Any) -> GraphModel:
    """What runs an export.

    Args:
        folder: that `mmcompress export` wrote.
        **settings: of `GraphModel`.
    Raises:
        ValueError: anything about the folder is wrong, or its runtime is missing.
    """
    named = json.loads((folder / FILE).read_bytes()).get("runtime") if is_export(folder) else "onnx"
    return GRAPHS.get(named, OnnxModel)(folder, **settings)
