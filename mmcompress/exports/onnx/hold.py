"""Which container each weight of an artifact goes into, and what stands in its layer's place."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from mmcompress.backbones.capabilities import Encoder
from mmcompress.exports.onnx.grids import Grid, grid_of, to_blocks, to_bytes
from mmcompress.exports.onnx.layers import (
    EXACT,
    INTEGER,
    Held,
    HeldLinear,
    HeldPatches,
    Int8,
    Int8Static,
    Int8Tokens,
    NBits,
    RoundedInput,
)
from mmcompress.exports.onnx.rows import HeldEmbedding, Rows, rows_of
from mmcompress.exports.rounding import Range, Ranges, is_patches
from mmcompress.format.reader import StoredWeight
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.modules.replace import replace_module

Find = Callable[[str], StoredWeight | None]
"""A tensor of an artifact by its key in the state dict; None where it has none."""

H = TypeVar("H", bound=Held)


@dataclass(frozen=True)
class Holding:
    """A copy of a model whose weights are in containers.

    Attributes:
        backbone: the copy; it can be traced and nothing else.
        held: by key in the model's state dict; of a weight in several places, the first.
        rounds_inputs: whether linear layers read integers.
    """

    backbone: Encoder
    held: Mapping[str, Held]
    rounds_inputs: bool = False


def hold(
    backbone: Encoder,
    find: Find,
    *,
    integer: bool = False,
    ranges: Ranges | None = None,
    runtime: str = "onnx",
) -> Holding:
    """Put each encoded weight, and each matrix that is stored in float16, into its container.

    Args:
        backbone: with its weights; it stays as it is.
        find: the weights as they are stored.
        integer: round what linear layers read to 8 bits, where their containers can.
        ranges: of `input_ranges`: round between these instead.
        runtime: that the graph is for. `openvino` would make 32 bits of each weight whose inputs
            have a scale for each token: these inputs are rounded in floats. It also has to be told
            how wide inputs are.
    Raises:
        ValueError: there are ranges, and no layer whose weight is stored so that it can round.
    """
    tensors: list[Tensor] = [*backbone.parameters(), *backbone.buffers()]
    made = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    holder = _Holder(made.model, find, integer=integer, ranges=ranges or {}, runtime=runtime)
    rounds = integer or any(isinstance(m, QuantizedInput) for m in made.model.modules())
    for path, module in list(made.model.named_modules()):
        holder.visit(path, module)
    static = any(isinstance(held, Int8Static) for held in holder.held.values())
    if ranges is not None and not static:
        raise ValueError(
            "no layer of this artifact can round its inputs: none has a weight of up to 8 bits "
            "with one scale for each row; compress with int8, or leave activations out"
        )
    return Holding(made, holder.held, rounds or static)


class _Holder:
    """Edits a model, layer by layer; a tensor that several layers have is held once.

    Args:
        model: edited in place.
        find, integer, ranges, runtime: of `hold`.
    Attributes:
        held: by key.
    """

    def __init__(
        self,
        model: nn.Module,
        find: Find,
        *,
        integer: bool,
        ranges: Ranges,
        runtime: str,
    ) -> None:
        self.model, self.find, self.integer, self.ranges = model, find, integer, ranges
        self.for_openvino = runtime == "openvino"
        self.held: dict[str, Held] = {}
        self._of_tensor: dict[tuple[int, str], Held] = {}

    def visit(self, path: str, module: nn.Module) -> None:
        """Replace a layer, or what gives one of its parameters."""
        if path and self.model.get_submodule(path) is not module:
            return  # replaced with what it lies in
        if isinstance(module, QuantizedInput):
            self._visit_rounded(path, module)
            return
        for name, parameter in list(module._parameters.items()):
            key = f"{path}.{name}" if path else name
            stored = None if parameter is None else self.find(key)
            if stored is not None and (stored.chain is not None or _is_half(stored)):
                self._visit_weight(key, module, name, stored)

    def _visit_weight(self, key: str, module: nn.Module, name: str, stored: StoredWeight) -> None:
        weight, grid, path = module._parameters[name], grid_of(stored), key.rpartition(".")[0]
        assert weight is not None
        if name == "weight" and (isinstance(module, nn.Linear) or is_patches(module)):
            held = self._once(key, weight, "factor", lambda: self._factor(path, stored, grid))
            if held is not None and isinstance(module, nn.Linear):
                replace_module(self.model, path, HeldLinear(module, held))
                return
            if held is not None and isinstance(module, nn.Conv2d):
                replace_module(self.model, path, HeldPatches(module, held))
                return
        rows = self._once(key, weight, "rows", lambda: rows_of(stored, grid))
        assert rows is not None
        if type(module) is nn.Embedding:
            replace_module(self.model, path, HeldEmbedding(module, rows))
        else:
            _decode_on_access(module, name, rows)

    def _visit_rounded(self, path: str, module: QuantizedInput) -> None:
        """Inputs with a scale for each token: in integers where the weight is int8 by rows."""
        key, inner = f"{path}.linear.weight", f"{path}.linear"
        if self.for_openvino and inner not in self.ranges:
            return  # the inner layer is visited by itself
        stored = self.find(key)
        grid = None if stored is None else grid_of(stored)
        found = None if grid is None or grid.column_scale is not None else to_bytes(grid)
        if grid is None or found is None:
            return
        codes, points = found

        def make() -> Held:
            scale = grid.scale[:, 0]
            if inner in self.ranges:
                return self._static(codes, scale, points, self.ranges[inner])
            return Int8Tokens(codes, scale, points, None, bits=module.bits)

        held = self._once(key, module.linear.weight, "inputs", make)
        assert held is not None
        rounded = RoundedInput(HeldLinear(module.linear, held), module.smoothing)
        replace_module(self.model, path, rounded)

    def _factor(self, path: str, stored: StoredWeight, grid: Grid | None) -> Held | None:
        """What an operator multiplies with as it is."""
        if grid is None:
            return None
        # Ranges are those of x, and a column scale is what x is multiplied with.
        inputs = self.ranges.get(path) if grid.column_scale is None else None
        found = to_bytes(grid) if self.integer or inputs else None
        blocks = to_blocks(grid)
        if found is not None and inputs is not None:
            return self._static(found[0], grid.scale[:, 0], found[1], inputs)
        if found is not None and (blocks is None or blocks.bits == 8):
            codes, points = found
            return Int8(codes, grid.scale[:, 0], points, grid.column_scale)
        if blocks is None:
            return None
        level = INTEGER if self.integer else EXACT
        columns = grid.levels.shape[1]
        return NBits(blocks, columns, grid.column_scale, level=level, state_width=self.for_openvino)

    def _static(
        self, codes: np.ndarray, scale: np.ndarray, points: np.ndarray | None, inputs: Range
    ) -> Held:
        return Int8Static(codes, scale, points, inputs=inputs, unsigned=not self.for_openvino)

    def _once(self, key: str, weight: Tensor, use: str, make: Callable[[], H | None]) -> H | None:
        found = self._of_tensor.get((id(weight), use))
        if found is None and (found := make()) is not None:
            self._of_tensor[id(weight), use] = self.held[key] = found
        return found  # type: ignore[return-value]


def _is_half(stored: StoredWeight) -> bool:
    """Whether a tensor is a matrix in float16; vectors are few bytes, and stay float32."""
    return stored.stored_dtype == "float16" and sum(n > 1 for n in stored.shape) > 1


def _decode_on_access(module: nn.Module, name: str, rows: Rows) -> None:
    """Make `module.name` what the rows decode to."""
    del module._parameters[name]
    module.add_module(f"{name}_rows", rows)
    parent = type(module)
    getter = property(lambda self: getattr(self, f"{name}_rows")())
    module.__class__ = type(parent.__name__, (parent,), {name: getter})
