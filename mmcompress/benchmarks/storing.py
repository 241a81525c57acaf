"""How fast a compressed model is stored and read again, on this machine.

Seconds of the wall and of the processor: the latter also say what other processes do not change.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from mmcompress.artifact.folder import Artifact
from mmcompress.config.compose import compose_config
from mmcompress.system.threads import cores

MODEL = ("backbone=open_clip", "backbone.name=ViT-B-32", "backbone.pretrained=null")
RECIPES = ("int8", "gptq", "entropy")


def measure(recipe: str, *, model: Sequence[str] = MODEL, pairs: int = 64) -> dict[str, Any]:
    """Seconds, bytes and megabytes of dense float32 per second, of storing and of reading.

    Args:
        recipe: of `conf/compression/`.
        model: overrides that name the dense model.
        pairs: that calibration sees.
    """
    cfg = compose_config(f"compression={recipe}", *model, f"data.calibration_size={pairs}")
    backbone, steps, data = (instantiate(cfg[k]) for k in ("backbone", "compression", "data"))
    data.attach(backbone)
    dense = sum(p.numel() for p in backbone.parameters()) * 4
    made = steps.apply(backbone, list(data.calibration_dataloader()))
    made.finalize()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "artifact"
        start = _clocks()
        made.save(folder)
        stored = _clocks()
        artifact = Artifact.load(folder)
        read = _clocks()
        return {
            "dense_bytes": dense,
            "artifact_bytes": artifact.bytes,
            "store": _rates(dense, start, stored),
            "read": _rates(dense, stored, read),
            "cores": cores(),
        }


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _rates(dense: int, start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    wall, processor = end[0] - start[0], end[1] - start[1]
    return {
        "seconds": wall,
        "processor_seconds": processor,
        "mb_per_second": dense / 1e6 / wall,
        "mb_per_processor_second": dense / 1e6 / processor,
    }


def to_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each recipe."""
    lines = [
        "| recipe | artifact (MB) | store (s) | of processors (s) | MB/s "
        "| read (s) | of processors (s) | MB/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe, row in results.items():
        cells = [recipe, f"{row['artifact_bytes'] / 1e6:.1f}"]
        for part in (row["store"], row["read"]):
            cells += [f"{part['seconds']:.1f}", f"{part['processor_seconds']:.1f}"]
            cells.append(f"{part['mb_per_second']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
