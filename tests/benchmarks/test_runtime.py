"""The table of artifacts in ONNX Runtime: what is measured, and how it is written down."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mmcompress.benchmarks.graphs import file_bytes, graph_memory, time_graphs
from mmcompress.benchmarks.runtime import ROWS, build_recipe, to_markdown
from mmcompress.benchmarks.runtime_peers import PEERS

WIDTH = 1024


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x W for a weight of 4 MB."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "w")
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [value("x", kind, ["batch", WIDTH])],
        [value("y", kind, ["batch", WIDTH])],
        [weight],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


def test_graphs_take_turns(graph: Path) -> None:
    example = np.ones((1, WIDTH), np.float32)
    found = time_graphs({"a": graph, "b": graph}, example, 4, threads=1, seconds=0.01)
    assert found.keys() == {"a", "b"}
    assert 0.2 < found["a"] / found["b"] < 5, "both are the same graph"
    assert file_bytes(graph) == pytest.approx(4 * WIDTH**2, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_weight_is_resident(graph: Path) -> None:
    found = graph_memory(graph, np.ones((1, WIDTH), np.float32), 1)
    assert found is not None
    assert 4 * WIDTH**2 < found < 100e6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_are_recipes(row) -> None:
    assert [*build_recipe(row).steps] == [*row.steps]
    assert row.peer in ("", *PEERS)


def test_the_table_by_hand() -> None:
    cells = [
        {
            "row": "int8",
            "tower": "image",
            "batch": batch,
            "ms": {"dense": 30.0 * batch, "ours": 10.0 * batch, "own": 15.0 * batch},
            "resident_bytes": {"dense": 400, "ours": 100},
            "file_bytes": {"dense": 400e6, "ours": 88.5e6},
        }
        for batch in (1, 16)
    ]
    line = "| int8 | image | 3.00× (2.00×) | 3.00× (2.00×) | 0.25 | 88.5 |"
    assert line in to_markdown(cells, "ViT-B-32", 2).splitlines()
