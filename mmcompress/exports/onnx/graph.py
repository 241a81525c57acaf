"""From a module to an ONNX graph: torch's own exporter, which reads what `torch.export` traces."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmcompress.system.extras import require_package

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20
"""The first with a Gelu."""

LARGEST_FILE = 16_000_000
"""Bytes of tensors from which on these lie in a file beside the graph: ONNX Runtime maps it, where
of tensors in the graph a copy stays in memory. Protobuf ends at 2 GB."""


def trace(module: nn.Module, example: Tensor, *, reads: str, gives: str) -> "ONNXProgram":
    """The graph of a module with one input and one output.

    Args:
        module: in evaluation mode.
        example: (B, …), an input. Its first dimension is free in the graph, and the second of a
            batch of token ids where the model allows it.
        reads, gives: names of input and output.
    Raises:
        ValueError: onnx is missing, or the exporter refuses the module.
    """
    require_package("onnxscript", extra="onnx", asks="writing ONNX graphs")
    free = {0: torch.export.Dim.DYNAMIC}
    if not example.is_floating_point():
        free[1] = torch.export.Dim.AUTO
    with warnings.catch_warnings(), torch.no_grad(), _in_one_sentence(reads):
        warnings.simplefilter("ignore")  # of the exporter, about its own inner parts
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[reads],
            output_names=[gives],
            dynamic_shapes=(free,),
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table={torch.ops.aten._is_all_true.default: _all_true},
            optimize=False,
            verbose=False,
        )
    assert program is not None
    _fold(program)
    _drop_traces(program)
    return program


def write(program: "ONNXProgram", path: Path) -> None:
    """Write the graph; tensors of more than `LARGEST_FILE` to `<name>.onnx.data` beside it."""
    tensors = program.model.graph.initializers.values()
    size = sum(t.const_value.nbytes for t in tensors if t.const_value is not None)
    program.save(path, external_data=size > LARGEST_FILE)


def _all_true(values: Any) -> Any:
    """What stands for an operator that the exporter of torch 2.14 does not know."""
    import onnxscript

    opset: Any = onnxscript.opset20
    numbers = opset.Cast(values, to=onnxscript.ir.DataType.INT32)
    return opset.Cast(opset.ReduceMin(numbers, keepdims=0), to=onnxscript.ir.DataType.BOOL)


@contextmanager
def _in_one_sentence(reads: str) -> Iterator[None]:
    """What the exporter says on many lines, of which the last cause counts."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = [line.strip(" -") for line in str(cause).splitlines() if line.strip()]
        raise ValueError(
            f"the tower that reads {reads} cannot be written as an ONNX graph "
            f"({' '.join(lines[:2])}): run the artifact with runtime=dense"
        ) from error


def _fold(program: "ONNXProgram") -> None:
    """Reckon out what hangs on constants alone, except weights: those stay as they are held."""
    from onnxscript import optimizer

    weights = set(program.model.graph.initializers)

    def should_fold(node: Any) -> bool | None:
        reads_weight = any(value is not None and value.name in weights for value in node.inputs)
        return False if reads_weight and node.op_type != "Transpose" else None

    optimizer.optimize_ir(program.model, should_fold=should_fold)


def _drop_traces(program: "ONNXProgram") -> None:
    """Where each node comes from in the code: half of a small file, and paths of this machine."""
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in program.model.graph.initializers.values():
        value.metadata_props.clear()
    program.model.metadata_props.clear()
