"""Agreement with the dense model, by hand."""

import logging

import pytest
import torch
import torch.nn.functional as F

from mmcompress.data.items import PairDataset
from mmcompress.evaluation.agreement import Agreement, mean_cosine, neighbor_recall
from mmcompress.evaluation.base import Comparison, Evaluator
from mmcompress.evaluation.baseline import dense_baseline
from mmcompress.evaluation.evaluate import evaluate


def circle(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_cosine_by_hand() -> None:
    """0°, 60° and 180° apart: 1, 1/2 and −1."""
    found = mean_cosine(circle(0, 0, 0), circle(0, 60, 180))
    assert found == pytest.approx((1 + 0.5 - 1) / 3, abs=1e-7)  # float32 embeddings


def test_neighbors_by_hand() -> None:
    """Dense neighbors: 0 ↔ 1, 2 → 1. Compressed: 0 → 2, 1 ↔ 2; only 2 still finds its own."""
    dense, moved = circle(0, 10, 40), circle(0, 50, 40)
    assert neighbor_recall(dense, dense) == 1
    assert neighbor_recall(moved, dense) == pytest.approx(1 / 3)
    assert neighbor_recall(circle(90, 100, 130), dense) == 1  # turned as a whole


def test_any_of_several_dense_neighbors_is_right() -> None:
    """Items 0, 1 and 2 are the same to the dense model; the compressed one tells them apart."""
    dense = circle(0, 0, 0, 90)
    assert neighbor_recall(circle(0, 1, 3, 90), dense) == 1


def test_a_tie_with_another_item_is_a_miss() -> None:
    """The compressed model maps all to one point."""
    assert neighbor_recall(circle(0, 0, 0), circle(0, 10, 40)) == 0


def test_equals_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    dense, noise = torch.randn(2, 30, 6, generator=generator)
    dense, moved = F.normalize(dense, dim=1), F.normalize(dense + noise, dim=1)

    def nearest(embedded: torch.Tensor, item: int) -> int:
        others = [j for j in range(len(embedded)) if j != item]
        return max(others, key=lambda j: float(embedded[item] @ embedded[j]))

    hits = [nearest(moved, i) == nearest(dense, i) for i in range(30)]
    assert 0.1 < sum(hits) / 30 < 0.9
    assert neighbor_recall(moved, dense) == pytest.approx(sum(hits) / 30)


def test_equal_items_are_no_neighbors(model, confused, data) -> None:
    """Each picture is there twice: its equal would be its nearest whatever the model."""
    split = data.splits["test"]
    twice = {"images": [*split.images, *(i.clone() for i in split.images)]}
    data.splits["test"] = PairDataset(**twice, captions=list(split.captions) * 2)
    dense = {"agreement": Agreement()}
    data.splits["once"] = split
    found = evaluate(confused, data, dense, "test", dense=model)
    assert found == evaluate(confused, data, dense, "once", dense=model)


def test_one_item_has_no_neighbors(model, data, caplog) -> None:
    split = data.splits["test"]
    data.splits["test"] = PairDataset(images=split.images[:1] * 2, captions=["all red"] * 2)
    found = evaluate(model, data, {"agreement": Agreement()}, "test", dense=model)
    assert found == {"agreement/image_cosine": 1.0, "agreement/text_cosine": 1.0}
    assert "all of test is one image: it has no neighbors" in caplog.text


def test_yields_both_numbers_of_each_modality(model, confused, data) -> None:
    """Red and green pictures are swapped: cosines 0, 0, 1."""
    metrics = evaluate(confused, data, {"agreement": Agreement()}, "test", dense=model)
    assert metrics["agreement/image_cosine"] == pytest.approx(1 / 3)
    assert metrics["agreement/text_cosine"] == 1
    assert list(metrics) == [
        f"agreement/{modality}_{name}"
        for modality in ("image", "text")
        for name in ("cosine", "neighbour_r@1")
    ]


def test_the_dense_model_agrees_with_itself(model, data, tmp_path) -> None:
    metrics = dense_baseline(model, data, {"a": Agreement()}, "test", cache_dir=tmp_path)
    assert metrics["agreement/image_cosine"] == 1
    assert metrics == dense_baseline(model, data, {"a": Agreement()}, "test", cache_dir=tmp_path)


def test_both_models_run_in_eval_mode(model, confused, data) -> None:
    model.train()
    evaluate(confused.train(), data, {"agreement": Agreement()}, "test", dense=model)
    assert not any(training for _, _, training in model.calls + confused.calls)
    assert model.training
    assert confused.training


def test_without_a_dense_model_it_is_left_out(
    model, data, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert evaluate(model, data, {"agreement": Agreement()}, "test") == {}
    assert "agreement left out: there is no dense model to compare with" in caplog.text


def test_data_without_captions_leave_the_text_tower_out(
    model, confused, data, caplog: pytest.LogCaptureFixture
) -> None:
    data.splits["test"].captioned = False
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(confused, data, {"agreement": Agreement()}, "test", dense=model)
    assert list(metrics) == ["agreement/image_cosine", "agreement/image_neighbour_r@1"]
    assert "data colors has no captions in test: text left out" in caplog.text


def test_it_is_told_from_an_evaluator() -> None:
    def plain(encode, data, split):
        return []

    evaluator: Evaluator = plain
    assert isinstance(Agreement(), Comparison)
    assert not isinstance(evaluator, Comparison)
