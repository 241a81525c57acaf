import logging

import pytest
import torch

from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.zeroshot import (
    ZeroShot,
    balanced_accuracy,
    class_heads,
    zeroshot_accuracy,
    zeroshot_ranks,
)


def test_heads_are_the_normalised_mean_of_the_prompts():
    prompts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [1.0, 0.0]])
    torch.testing.assert_close(class_heads(prompts), expected)


def test_accuracy_by_hand():
    heads = torch.eye(3)
    images = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.0, 0.4, 0.6]])
    labels = torch.tensor([0, 1, 1, 2])
    assert (zeroshot_ranks(images, heads, labels) == 0).tolist() == [True, True, False, True]
    assert zeroshot_accuracy(images, heads, labels) == 0.75


def test_a_model_that_scores_all_classes_alike_gets_nothing_right():
    images, heads = torch.ones(4, 2), torch.ones(3, 2)
    assert zeroshot_accuracy(images, heads, torch.tensor([0, 1, 2, 0])) == 0.0


def test_accuracy_matches_argmax_without_ties():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(50, 8, generator=generator)
    heads = torch.randn(5, 8, generator=generator)
    labels = torch.randint(5, (50,), generator=generator)
    right = sum(
        max(range(5), key=lambda c: float(image @ heads[c])) == label
        for image, label in zip(images, labels.tolist(), strict=True)
    )
    assert zeroshot_accuracy(images, heads, labels) == right / 50


def test_balanced_accuracy_weighs_classes_not_images():
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 4, 4])
    hits = torch.tensor([True] * 6 + [True, False])
    assert balanced_accuracy(hits, labels) == pytest.approx(0.75, abs=1e-12)


def test_heads_come_from_the_text_tower_that_is_scored(model, data):
    assert evaluate(model, data, {"zeroshot": ZeroShot()}, "test") == {
        "zeroshot/acc@1": 1.0,
        "zeroshot/balanced_acc@1": 1.0,
    }
    with torch.no_grad():
        model.model["text"].weight.copy_(torch.eye(3)[[1, 0, 2]])
    metrics = evaluate(model, data, {"zeroshot": ZeroShot()}, "test")
    assert metrics["zeroshot/acc@1"] == pytest.approx(1 / 3, abs=1e-12)


def test_missing_labels_are_said_and_left_out(model, data, caplog):
    with caplog.at_level(logging.WARNING):
        assert evaluate(model, data, {"zeroshot": ZeroShot()}, "val") == {}
    assert caplog.messages == ["data colours has no labels in val: zeroshot left out"]
