"""Embeds pictures, texts and sounds by the graphs of an export, in a process without torch."""

import json
import sys
from pathlib import Path

import numpy as np

for name in ("torch", "torchvision", "transformers", "open_clip"):
    sys.modules[name] = None  # type: ignore[assignment]

from mmcompress.runtime.exported import open_export  # noqa: E402

folder, items, out = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
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
np.savez(out, **found)  # type: ignore[arg-type]
