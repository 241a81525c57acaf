"""Embeds pictures, texts and sounds by the graphs of an export, in a process without torch."""

import sys
from pathlib import Path

import numpy as np

for name in ("torch", "torchvision", "transformers", "open_clip"):
    sys.modules[name] = None  # type: ignore[assignment]

from mmcompress.runtime.exported import embed_items  # noqa: E402

folder, items, out = sys.argv[1:]
np.savez(out, **embed_items(Path(folder), Path(items)))  # type: ignore[arg-type]
