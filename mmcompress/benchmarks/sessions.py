"""One graph by its file, in the runtime that runs it. Imports no torch.

As a program it prints what the graph takes in memory:

    python -P sessions.py GRAPH INPUTS.npy THREADS

resident bytes after one run, minus those after the imports.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmcompress.runtime.openvino import EXACT
from mmcompress.runtime.resident import resident_bytes

XML = ".xml"
"""Of OpenVINO's graphs; all others are ONNX Runtime's."""


def open_graph(graph: Path, threads: int) -> Callable[[np.ndarray], Any]:
    """What runs a graph of one input on the CPU."""
    if graph.suffix == XML:
        model = _openvino(graph, threads)
        return lambda inputs: model(inputs)
    session = _onnx(graph, threads)
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})


def _openvino(graph: Path, threads: int) -> Any:
    import openvino

    settings = EXACT | {"INFERENCE_NUM_THREADS": str(threads)}
    return openvino.Core().compile_model(graph, "CPU", settings)


def _onnx(graph: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def main(graph: str, inputs: str, threads: str) -> None:
    """Print how many bytes a graph takes.

    Args:
        graph: its file.
        inputs: a `.npy` file.
    """
    if Path(graph).suffix == XML:
        import openvino  # noqa: F401
    else:
        import onnxruntime  # noqa: F401
    given = np.load(inputs)
    before = resident_bytes()
    run = open_graph(Path(graph), int(threads))
    run(given)
    print(resident_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
