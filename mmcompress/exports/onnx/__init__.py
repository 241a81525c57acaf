"""Graphs that ONNX Runtime runs with the integers of an artifact."""

from mmcompress.exports.onnx.towers import Tower as Tower
from mmcompress.exports.onnx.towers import write_dense_towers as write_dense_towers
from mmcompress.exports.onnx.towers import write_towers as write_towers
