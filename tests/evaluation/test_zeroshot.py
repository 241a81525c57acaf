import dataclasses
import logging

import pytest
import torch

from mmcompress.data.base import Classification
from mmcompress.data.items import PairDataset
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.zeroshot import ZeroShot


def test_equal_names_are_said_once(model, data, caplog):
    """Names that differ and are one to the tokenizer count as equal, too."""
    twice = Classification("color", data.splits["test"], ["red", "so red", "blue"], ["a {} thing"])
    twice = dataclasses.replace(twice, dataset=data.classification("test").dataset)
    data.classification = lambda split: twice
    with caplog.at_level(logging.WARNING):
        found = [evaluate(model, data, {"zeroshot": ZeroShot()}, "test") for _ in range(2)]
    (line,) = caplog.messages
    assert "cannot tell apart (red = so red)" in line
    # Red is found where topk lists it first, green is no "so red", blue is blue.
    assert found[0]["zeroshot/balanced_acc@1"] == pytest.approx(2 / 3)
    assert found[0] == found[1]


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
    assert caplog.messages == ["data colors has no labels in val: zeroshot left out"]


def test_several_tasks_are_named(model, data, caplog):
    """Each has its own metrics and number of items; classes may have names of their own."""
    colors = data.classification("test")
    first = PairDataset(
        images=colors.dataset.images[:2], captions=["all red", "all green"], labels=[0, 1]
    )
    names = [["red"], ["green", "blue"]]
    warm = Classification("warm", first, ["warm", "cold"], ["a {} thing"], names)
    data.classifications = lambda split: {"color": colors, "warm": warm}
    found = evaluate(model, data, {"zeroshot": ZeroShot()}, "test")
    assert found == {
        "zeroshot/color_acc@1": 1.0,
        "zeroshot/color_balanced_acc@1": 1.0,
        "zeroshot/warm_acc@1": 1.0,
        "zeroshot/warm_balanced_acc@1": 1.0,
    }
    assert [found[f"zeroshot/{task}_acc@1"].items for task in ("color", "warm")] == [3, 2]
    with torch.no_grad():  # green is then nothing, and red all the warm ones
        model.model["text"].weight[1] = model.model["text"].weight[0]
    found = evaluate(model, data, {"zeroshot": ZeroShot()}, "test")
    assert found["zeroshot/warm_acc@1"] == 0.5


def test_prompts_of_a_class(data):
    warm = Classification("w", data.splits["test"], ["warm", "cold"], ["a {}", "{}"])
    assert warm.prompts(1) == ["a cold", "cold"]
    named = dataclasses.replace(warm, names=[["red"], ["green", "blue"]])
    assert named.prompts(1) == ["a green", "green", "a blue", "blue"]


def test_one_class_gives_no_accuracy(model, data, monkeypatch, caplog):
    one = dataclasses.replace(data.classification("test"), class_names=["red"])
    monkeypatch.setattr(data, "classification", lambda split: one)
    assert evaluate(model, data, {"zeroshot": ZeroShot()}, "test") == {}
    assert "has one class, which any model finds" in caplog.text
