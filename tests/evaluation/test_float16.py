"""The dense model in float16: its own scores and sizes, the dense model untouched."""

import copy

import pytest
import torch

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.evaluation.agreement import Agreement
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.float16 import cast_to_float16, float16_baseline
from mmcompress.evaluation.retrieval import Retrieval


def test_scores_and_sizes_are_those_of_the_rounded_model(tiny_backbone, tiny_data):
    tiny_data.attach(tiny_backbone)
    evaluators = {"retrieval": Retrieval(ks=[1]), "agreement": Agreement()}
    before = copy.deepcopy(tiny_backbone.state_dict())
    found = float16_baseline(tiny_backbone, tiny_data, evaluators, "test")
    for key, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    rounded = cast_to_float16(tiny_backbone)
    expected = evaluate(rounded, tiny_data, evaluators, "test", dense=tiny_backbone)
    assert found["metrics"] == expected
    assert 0.999 < found["metrics"]["agreement/image_cosine"] < 1.0
    dense = dense_file_bytes(tiny_backbone.model)
    # The header is small beside the tensors; random weights have no bytes that repeat but their
    # exponents'.
    assert found["plain"]["compression_ratio"] == pytest.approx(2.0, rel=0.1)
    assert found["plain"]["bytes"] == dense / found["plain"]["compression_ratio"]
    parameters = sum(p.numel() for p in tiny_backbone.parameters())
    assert found["coded"]["bits_per_weight"] == 8 * found["coded"]["bytes"] / parameters
    assert found["coded"]["bytes"] < found["plain"]["bytes"]


def test_what_float16_cannot_hold_stays(tiny_backbone):
    with torch.no_grad():
        tiny_backbone.model.text_projection.weight[0, 0] = 7e4
    cast = cast_to_float16(tiny_backbone).model
    assert torch.equal(cast.text_projection.weight, tiny_backbone.model.text_projection.weight)
    assert torch.equal(
        cast.visual_projection.weight, tiny_backbone.model.visual_projection.weight.half().float()
    )
