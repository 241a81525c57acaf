"""Inputs in 8 bits: by hand, as ONNX Runtime rounds them, and between what ends."""

import numpy as np
import pytest
import torch
from torch import nn

from mmcompress.exports.rounding import (
    Range,
    dynamic_uint8,
    input_ranges,
    range_of,
    rounded_inputs,
)
from mmcompress.testing.zoo.family import batch_of
from mmcompress.testing.zoo.hf import build_clip


def test_rounding_by_hand() -> None:
    """−1 to 1.55 in 255 steps of 0.01; zero stays zero."""
    x = torch.tensor([-1.0, 0.0, 0.104, 0.106, 1.55])
    expected = torch.tensor([-1.0, 0.0, 0.10, 0.11, 1.55])
    torch.testing.assert_close(dynamic_uint8(x), expected, rtol=0, atol=1e-6)
    assert torch.equal(dynamic_uint8(torch.zeros(3)), torch.zeros(3))


def test_rounding_equals_onnxruntime() -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    names = ["q", "scale", "zero"]
    kinds = [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8]
    shapes: list[list[int] | None] = [None, [], []]
    outputs = [
        onnx.helper.make_tensor_value_info(*each) for each in zip(names, kinds, shapes, strict=True)
    ]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])]
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], names)
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    codes, scale, zero = session.run(None, {"x": x})
    expected = (codes.astype(np.float32) - np.float32(zero)) * scale
    np.testing.assert_allclose(dynamic_uint8(torch.from_numpy(x)), expected, atol=1e-6)


def test_rounded_inputs_end_with_the_block() -> None:
    layer = nn.Linear(3, 2)
    x = torch.tensor([[0.1, 0.2, 0.301]])
    with rounded_inputs(layer):
        assert torch.equal(
            layer(x), nn.functional.linear(dynamic_uint8(x), layer.weight, layer.bias)
        )
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_a_range_by_hand() -> None:
    """−1 to 1.55 in 255 steps of 0.01; what lies outside goes to the ends."""
    ends = Range(-1.0, 1.55)
    assert (ends.step, ends.zero_point) == (pytest.approx(0.01), 100)
    x = torch.tensor([-7.0, 0.0, 0.104, 0.106, 9.0])
    expected = torch.tensor([-1.0, 0.0, 0.10, 0.11, 1.55])
    torch.testing.assert_close(ends.round(x), expected, rtol=0, atol=1e-6)
    assert range_of(torch.tensor([2.0, 3.0])) == Range(0.0, 3.0)
    assert Range(-1.0, 2.0).joined(Range(-3.0, 1.0)) == Range(-3.0, 2.0)


def test_ranges_are_what_layers_read() -> None:
    """Over all batches and over all layers that share a weight."""
    model = build_clip()
    layers = model.model.vision_model.encoder.layers
    first, second = layers[0].mlp.fc1, layers[1].mlp.fc1
    second.weight = first.weight
    read: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        for layer in (first, second)
    ]
    batch = batch_of(model)
    halves = [{name: x[part] for name, x in batch.items()} for part in (slice(4), slice(4, 8))]
    found = input_ranges(model, halves)
    for hook in hooks:
        hook.remove()
    assert len(read) == 4
    everything = range_of(torch.cat([x.flatten() for x in read]))
    names = [f"vision_model.encoder.layers.{number}.mlp.fc1" for number in range(2)]
    assert [found[name] for name in names] == [everything, everything]
    assert "vision_model.embeddings.patch_embedding" in found, "patches are a linear layer"


def test_layers_without_a_range_round_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    x = torch.tensor([[0.1, 0.2, 0.301]])
    with rounded_inputs(model, {"0": Range(0.0, 255.0)}):
        expected = model[1](model[0](torch.zeros(1, 3)))
        assert torch.equal(model(x), expected)
