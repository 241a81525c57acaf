"""How the terms are weighted."""

import pytest
import torch
import torch.nn.functional as F

from mmcompress.objectives.contrastive import contrastive_loss
from mmcompress.objectives.distillation import (
    affinity_loss,
    feature_loss,
    interactive_loss,
)
from mmcompress.objectives.objective import Objective


def test_terms_are_weighted():
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = F.normalize(torch.randn(4, 6, 5, generator=generator), dim=-1)
    ours, theirs = torch.tensor(3.0), torch.tensor(4.0)
    objective = Objective(contrastive=0.5, affinity=2.0, feature=3.0, interactive=4.0)
    found = objective((a, b), ours, (c, d), theirs)
    expected = {
        "contrastive": 0.5 * contrastive_loss(a, b, ours),
        "affinity": 2.0 * affinity_loss((a, b), (c, d), ours, theirs),
        "feature": 3.0 * feature_loss((a, b), (c, d)),
        "interactive": 4.0 * interactive_loss((a, b), (c, d), ours),
    }
    assert found == expected  # the same operations


@pytest.mark.parametrize("name", ["contrastive", "affinity", "feature", "interactive"])
def test_a_term_of_weight_zero_is_absent(name: str):
    pair, scale = (torch.eye(3), torch.eye(3)), torch.tensor(1.0)
    objective = Objective(**({"contrastive": 0.0} | {name: 1.0}))
    assert objective.needs_teacher == (name != "contrastive")
    assert list(objective(pair, scale, pair, scale)) == [name]


def test_without_distillation_no_teacher_is_asked_for():
    found = Objective()((torch.eye(2), torch.eye(2)), torch.tensor(1.0))
    assert list(found) == ["contrastive"]


@pytest.mark.parametrize("name", ["contrastive", "affinity", "feature", "interactive"])
def test_a_negative_weight(name: str):
    with pytest.raises(ValueError, match=rf"objective\.{name}=-0\.1 must not be negative"):
        Objective(**{name: -0.1})


def test_no_weight_at_all():
    with pytest.raises(ValueError, match="every weight of the objective is 0: set at least one"):
        Objective(contrastive=0.0)
