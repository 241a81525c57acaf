"""Cross entropy and its distillation by hand."""

import math

import pytest
import torch

from mmcompress.backbones.mlp import MLP
from mmcompress.objectives.classification import CrossEntropy


def fixed(*logits: float) -> MLP:
    """A classifier whose logits are the same for every picture."""
    backbone = MLP(size=1, hidden=[1], classes=len(logits))
    with torch.no_grad():
        backbone.model["head"].weight.zero_()
        backbone.model["head"].bias.copy_(torch.tensor(logits))
    return backbone


BATCH = {"image": torch.zeros(2, 1, 1, 1), "label": torch.tensor([0, 1])}


def test_cross_entropy_by_hand() -> None:
    """Logits (log 3, 0): probabilities 3/4 and 1/4."""
    objective, student = CrossEntropy(), fixed(math.log(3), 0.0)
    assert not objective.needs_teacher
    terms = objective(student, BATCH)
    assert list(terms) == ["cross_entropy"]
    expected = -(math.log(3 / 4) + math.log(1 / 4)) / 2
    assert terms["cross_entropy"].item() == pytest.approx(expected, rel=1e-6)
    assert objective.metrics(objective.outputs(student, BATCH)) == {"acc@1": 0.5}


def test_distillation_by_hand() -> None:
    """At temperature 2 the teacher's logits (2 log 3, 0) soften to 3/4 and 1/4."""
    objective = CrossEntropy(distillation=0.5, temperature=2.0)
    assert objective.needs_teacher
    terms = objective(fixed(0.0, 0.0), BATCH, teacher=fixed(2 * math.log(3), 0.0))
    divergence = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert terms["distillation"].item() == pytest.approx(0.5 * 4 * divergence, rel=1e-6)
    same = objective(fixed(1.0, 0.0), BATCH, teacher=fixed(1.0, 0.0))
    assert same["distillation"].item() == pytest.approx(0, abs=1e-7)


def test_what_it_refuses(tiny_backbone) -> None:
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        CrossEntropy(temperature=0)
    with pytest.raises(ValueError, match="needs a classifier and HFClip is none"):
        CrossEntropy()(tiny_backbone, BATCH)
    with pytest.raises(ValueError, match="needs data with labels"):
        CrossEntropy()(fixed(0.0, 0.0), {"image": BATCH["image"]})
