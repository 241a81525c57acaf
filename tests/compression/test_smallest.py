"""A setting below the least that can be kept is carried out as the least, and the log says so."""

import pytest
import torch

from mmcompress.backbones.base import Backbone
from mmcompress.compression.base import warn_smallest
from mmcompress.compression.pruning.structured import Structured
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.hashed_embedding import HashEmbedding


@pytest.mark.parametrize(("ratio", "said"), [(0.999, True), (0.5, False)])
def test_neurons(
    ratio: float, said: bool, tiny_backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    warn_smallest.cache_clear()
    step = Structured(pruning_ratio=ratio, granularity="mlp", importance="magnitude")
    Recipe({"neurons": step}).apply(tiny_backbone, [])
    widths = {m.out_features for n, m in tiny_backbone.model.named_modules() if n.endswith("fc1")}
    assert (widths == {1}) is said
    message = "pruning_ratio=0.999 is less than can be kept of some layers: 1 of each is kept there"
    assert (message in caplog.messages) is said


@pytest.mark.parametrize(("ratio", "said"), [(1e-6, True), (0.05, False)])
def test_buckets(
    ratio: float, said: bool, tiny_backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    warn_smallest.cache_clear()
    ids = torch.ones(4, 8, dtype=torch.int64)
    compressed = Recipe({"hashed": HashEmbedding(bucket_ratio=ratio)}).apply(
        tiny_backbone, [{"image": torch.zeros(4, 3, 32, 32), "text": ids}]
    )
    (decision,) = compressed.plan["hashed"].values()
    assert decision["buckets"] == (1 if said else 3)  # of 64 words
    message = "bucket_ratio=1e-06 is less than can be kept of some layers: one bucket is kept there"
    assert (message in caplog.messages) is said
