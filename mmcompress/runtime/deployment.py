"""What a model costs where it is deployed: time, memory and files in ONNX Runtime."""

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.data.base import PairData
from mmcompress.exports.cache import exported, exported_dense
from mmcompress.runtime import resident
from mmcompress.runtime.latency import alternate, first_pairs
from mmcompress.runtime.onnx import OnnxModel
from mmcompress.system.programs import run_program

log = logging.getLogger(__name__)

PACKAGES = ("onnxruntime", "onnxscript")


def measure_deployed(
    dense: Backbone,
    artifact: Artifact,
    data: PairData,
    split: str,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    seconds: float = 2.0,
    keep: bool = False,
) -> dict[str, Any]:
    """Dense and compressed model in ONNX Runtime, in turn.

    The dense model's export is cached by content. Each tower is timed by itself, and the medians
    are added up.

    Args:
        dense: with its weights.
        artifact: of `Artifact.load`.
        data: makes the inputs: the first pairs of the split.
        batch_sizes: pairs per forward.
        seconds: about how long to measure at each batch size.
        keep: leave the artifact's export in the cache, where a scored runtime has put it.
    Returns:
        `runtime` and `threads`; for `dense` and `compressed`: `_ms`, batch size as a string →
        median in milliseconds, `_bytes` of all files, and `_memory_bytes`, resident, of a process
        of its own after one run, without its imports. Where nothing can be measured,
        `not_measured` says why, and the others are left out.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return {"not_measured": f'{missing[0]} is not installed: pip install "mmcompress[onnx]"'}
    with tempfile.TemporaryDirectory() as place:
        try:
            folders = {
                "dense": exported_dense(dense),
                "compressed": exported(artifact, cache_dir=None if keep else Path(place)),
            }
        except ValueError as error:
            return {"not_measured": str(error)}
        batches = {size: _inputs(dense, data, split, size) for size in batch_sizes}
        found = _measured(folders, batches, seconds)
    return {"runtime": f"ONNX Runtime {version('onnxruntime')}", **found}


def _inputs(dense: Backbone, data: PairData, split: str, size: int) -> dict[str, np.ndarray]:
    batch = first_pairs(data, split, size)
    return {modality: batch[modality].numpy() for modality in dense.modalities}


def _measured(
    folders: Mapping[str, Path], batches: Mapping[int, Mapping[str, np.ndarray]], seconds: float
) -> dict[str, Any]:
    threads = torch.get_num_threads()
    found: dict[str, Any] = {"threads": threads}
    times: dict[str, dict[str, float]] = {name: {} for name in folders}
    first = next(iter(batches.values()))
    for modality in first:
        models = {name: OnnxModel(folder, threads=threads) for name, folder in folders.items()}
        for size, inputs in batches.items():
            runs: dict[str, Callable[[], object]] = {
                name: partial(model.encode, modality, inputs[modality])
                for name, model in models.items()
            }
            medians = alternate(runs, seconds=seconds / len(first))
            for name, median in medians.items():
                times[name][str(size)] = times[name].get(str(size), 0.0) + 1e3 * median
        del models, runs  # no more than one tower of each in memory
    for name, folder in folders.items():
        found[f"{name}_ms"] = times[name]
        found[f"{name}_bytes"] = sum(file.stat().st_size for file in folder.iterdir())
        found[f"{name}_memory_bytes"] = resident_memory(folder, first)
    return found


def resident_memory(folder: Path, inputs: Mapping[str, np.ndarray]) -> int | None:
    """Resident bytes of an export's towers after one run, in a process of its own.

    Args:
        folder: of the export.
        inputs: modality → a batch, for each tower that counts.
    Returns:
        None where the operating system does not tell.
    """
    if not resident.STATUS.exists():
        return None
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "inputs.npz"
        np.savez(file, **inputs)  # type: ignore[arg-type]
        done = run_program(Path(resident.__file__), folder, file)
    if done.returncode != 0:
        log.warning("memory in ONNX Runtime was not measured: %s", done.stderr.strip()[-200:])
        return None
    return int(done.stdout)
