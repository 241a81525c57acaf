"""Opening an export with what it was written for. Needs no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

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


def embed_items(folder: Path, items: Path) -> dict[str, np.ndarray]:
    """Modality → embeddings (N, D) of the pictures, texts and sounds that lie in a folder.

    Args:
        folder: of the export.
        items: holds `*.png`, `texts.json` and `sounds.npz`, as far as the model embeds them.
    Raises:
        ValueError: of `open_export`.
    """
    model = open_export(folder)
    found: dict[str, np.ndarray] = {}
    if "image" in model.modalities:
        found["image"] = model.embed_images(sorted(items.glob("*.png")))
    if "text" in model.modalities:
        found["text"] = model.embed_texts(json.loads((items / "texts.json").read_text("utf-8")))
    if "audio" in model.modalities:
        with np.load(items / "sounds.npz") as sounds:
            heard = [(wave, int(sounds["rate"])) for wave in sounds["waves"]]
        found["audio"] = model.embed_audio(heard)
    return found
