"""Accuracy of a classifier, by hand."""

import logging

import pytest
import torch

from mmcompress.backbones.mlp import MLP
from mmcompress.data.base import PairData
from mmcompress.data.grayscale import Pictures
from mmcompress.data.items import Items
from mmcompress.evaluation.accuracy import Accuracy
from mmcompress.evaluation.evaluate import evaluate


class Levels(PairData):
    """Pictures of one pixel."""

    name = "levels"
    class_names = ("dark", "bright", "dazzling")

    def __init__(self, *labels: int) -> None:
        super().__init__()
        self.labels = labels

    def build_splits(self) -> dict[str, Items]:
        images = torch.tensor([0, 10, 200, 255], dtype=torch.uint8).view(4, 1, 1)
        return {"test": Pictures(images, self.labels)}


@pytest.fixture
def threshold() -> MLP:
    """Bright from half of full intensity on."""
    backbone = MLP(size=1, hidden=[1], classes=2)
    with torch.no_grad():
        for layer, weight, bias in (
            (backbone.model["hidden"][0], [[1.0]], [0.0]),
            (backbone.model["head"], [[-1.0], [1.0]], [0.5, -0.5]),
        ):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
    return backbone


def score(backbone, *labels: int) -> dict[str, float]:
    data = Levels(*labels)
    data.attach(backbone)
    return evaluate(backbone, data, {"accuracy": Accuracy()}, "test")


def test_by_hand(threshold: MLP) -> None:
    """The dark ones are right, and of three that should be bright two are."""
    assert score(threshold, 0, 1, 1, 1) == {
        "accuracy/acc@1": 3 / 4,
        "accuracy/balanced_acc@1": pytest.approx((1 + 2 / 3) / 2),
    }


def test_what_it_refuses(threshold: MLP, model, data, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="run to 2 and the model has 2 classes"):
        score(threshold, 0, 0, 1, 2)
    with pytest.raises(
        ValueError,
        match="is for a classifier and ColorModel is none: set evaluation=classification",
    ):
        evaluate(model, data, {"accuracy": Accuracy()}, "test")
    with caplog.at_level(logging.WARNING):
        assert evaluate(model, data, {"accuracy": Accuracy()}, "val") == {}
    assert "no labels in val: accuracy left out" in caplog.text
