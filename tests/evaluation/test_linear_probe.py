"""The probe on embeddings whose classes are known to separate, or not."""

import logging

import pytest
import torch
import torch.nn.functional as F

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data.base import PairData
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.linear_probe import LinearProbe, probe_accuracy


def clusters(
    count: int, spread: float, seed: int, classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    points = torch.eye(8)[labels] + spread * torch.randn(count, 8, generator=generator)
    return F.normalize(points, dim=-1), labels


def test_separate_classes_are_found_and_noise_is_not() -> None:
    strengths, options = (0.1, 1.0, 10.0), {"max_iter": 500}
    for spread, low, high in [(0.05, 1.0, 1.0), (50.0, 0.15, 0.55)]:
        names = ("train", "val", "test")
        seen = {name: clusters(150, spread, seed) for seed, name in enumerate(names)}
        assert low <= probe_accuracy(seen, "test", strengths, **options) <= high


def test_the_strength_is_chosen_on_val() -> None:
    """With a strength that is far too small everything falls to the most frequent class."""
    train, labels = clusters(90, 0.3, seed=0)
    train, labels = torch.cat([train, train[labels == 0]]), torch.cat([labels, labels[labels == 0]])
    seen = {"train": (train, labels), "val": clusters(90, 0.3, 1), "test": clusters(90, 0.3, 2)}
    alone = {c: probe_accuracy(seen, "test", (c,), 500) for c in (1e-6, 1.0)}
    assert alone[1e-6] == pytest.approx(1 / 3)
    assert alone[1.0] > 0.8
    assert probe_accuracy(seen, "test", (1e-6, 1.0), 500) == alone[1.0]


def test_as_an_evaluator(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    metrics = evaluate(tiny_backbone, tiny_data, {"probe": LinearProbe(strengths=[1.0])}, "test")
    assert set(metrics) == {"linear_probe/acc@1"}
    assert 0 <= metrics["linear_probe/acc@1"] <= 1


def test_without_labels_it_is_said(model, data, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert evaluate(model, data, {"probe": LinearProbe()}, "test") == {}
    assert caplog.messages == ["data colors has no labels in train: linear probe left out"]


def test_bad_strengths() -> None:
    with pytest.raises(ValueError, match=r"linear_probe.strengths=\[0\] must hold positive"):
        LinearProbe(strengths=[0])
