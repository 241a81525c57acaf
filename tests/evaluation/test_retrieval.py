"""Retrieval of a data set, as an evaluator."""

from typing import Any

import pytest

from mmcompress.data.items import PairDataset
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval


def test_evaluator(model: Any, data: Any, confused: Any):
    """Three colors and their names; see the fixtures."""
    found = dict(Retrieval(ks=[1, 2])(model.encode, data, "test"))
    assert found == {
        f"retrieval/{name}": 1.0
        for name in ("mean_r@1", "mean_recall", "i2t_r@1", "i2t_r@2", "t2i_r@1", "t2i_r@2")
    }
    # Red and green exchanged: one image in three finds its caption; no score but its own is not 0.
    found = dict(Retrieval(ks=[1])(confused.encode, data, "test"))
    assert found["retrieval/i2t_r@1"] == pytest.approx(1 / 3)


def test_pixel_equal_pictures_of_a_data_set_count_as_one(model: Any, data: Any):
    """Red is there under two names: through the loader, as every data set's pictures."""
    split = data.splits["test"]
    data.splits["test"] = PairDataset(
        images=[*split.images, split.images[0].clone()], captions=[*split.captions, "so red"]
    )
    found = dict(Retrieval(ks=[1])(model.encode, data, "test"))
    score = found["retrieval/mean_r@1"]
    assert score.items == 3
    # The captions "all red" and "so red" are one to this tokenizer, but not in words.
    assert score.facts == {"items_apart": 4, "ceiling_apart": (3 / 4 + 2 / 4) / 2}
    assert found["retrieval/t2i_r@1"] == 1.0
    assert found["retrieval/i2t_r@1"] == 1.0


def test_bad_ks():
    for ks in ([], [0, 1]):
        with pytest.raises(ValueError, match=r"retrieval\.ks=.* at least 1"):
            Retrieval(ks=ks)


def test_one_item_gives_no_recall(model, data, caplog) -> None:
    """Every model finds it: of a split that lost all items except one, 100 % would say nothing."""
    split = data.splits["test"]
    data.splits["test"] = PairDataset(images=split.images[:1] * 2, captions=["all red"] * 2)
    assert evaluate(model, data, {"retrieval": Retrieval()}, "test") == {}
    assert "test holds one image alone, which any model finds" in caplog.text
