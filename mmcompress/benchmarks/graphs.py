"""Time and memory of graphs by their files."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mmcompress.benchmarks import sessions
from mmcompress.benchmarks.sessions import open_graph
from mmcompress.runtime.latency import alternate
from mmcompress.runtime.resident import STATUS
from mmcompress.system.programs import run_program


def time_graphs(
    graphs: Mapping[str, Path], example: np.ndarray, batch: int, *, threads: int, seconds: float
) -> dict[str, float]:
    """Median seconds of a batch in each graph, which take turns.

    Args:
        graphs: by name.
        example: (1, …), an input that is repeated.
        batch: inputs at a time.
        threads: of a session.
        seconds: of timing.
    """
    inputs = np.repeat(example, batch, axis=0)
    workloads = {
        name: partial(open_graph(graph, threads), inputs) for name, graph in graphs.items()
    }
    return alternate(workloads, seconds=seconds)


def graph_memory(graph: Path, example: np.ndarray, threads: int) -> int | None:
    """Resident bytes of a fresh process after one run of a graph, minus what it had before it
    opened it; None where the system does not say (not Linux).

    Args:
        graph: its file.
        example: (1, …), an input.
        threads: of a session.
    """
    if not STATUS.exists():
        return None
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "inputs.npy"
        np.save(file, example)
        done = run_program(Path(sessions.__file__), graph, file, threads)
    if done.returncode != 0:
        raise RuntimeError(f"{graph} did not run: {done.stderr.strip()[-300:]}")
    return int(done.stdout)


def file_bytes(graph: Path) -> int:
    """Of a graph and of the tensors that lie beside it."""
    beside = [f"{graph.stem}.bin"] if graph.suffix == sessions.XML else [f"{graph.name}.data"]
    files = [graph, *(graph.with_name(name) for name in beside)]
    return sum(file.stat().st_size for file in files if file.exists())
