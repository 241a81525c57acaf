import math

import pytest
import torch
import torch.nn.functional as F

from mmcompress.objectives.contrastive import contrastive_loss
from mmcompress.objectives.distillation import affinity_loss, feature_loss
from mmcompress.objectives.objective import Objective


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_contrastive_by_hand() -> None:
    """Two orthogonal pairs at scale 2: each row of logits is (2, 0)."""
    pairs = torch.eye(2)
    expected = math.log(1 + math.exp(-2))
    assert contrastive_loss(pairs, pairs, torch.tensor(2.0)).item() == pytest.approx(expected)


def test_contrastive_of_nothing_learnt_is_log_of_the_batch() -> None:
    same = F.normalize(torch.ones(8, 4), dim=-1)
    loss = contrastive_loss(same, same, torch.tensor(10.0))
    assert loss.item() == pytest.approx(math.log(8), rel=1e-6)


def test_affinity_vanishes_where_student_and_teacher_agree() -> None:
    pair = unit(6, 4), unit(6, 4, seed=1)
    scale = torch.tensor(5.0)
    assert affinity_loss(pair, pair, scale, scale).item() == pytest.approx(0.0, abs=1e-6)


def test_affinity_equals_a_slow_divergence() -> None:
    student, teacher = (unit(3, 4), unit(3, 4, seed=1)), (unit(3, 5, seed=2), unit(3, 5, seed=3))
    ours, theirs = 4.0 * student[0] @ student[1].T, 7.0 * teacher[0] @ teacher[1].T
    total = 0.0
    for a, b in ((ours, theirs), (ours.T, theirs.T)):
        for i in range(3):
            p, q = b[i].softmax(0), a[i].softmax(0)
            total += sum(p[j] * (p[j].log() - q[j].log()) for j in range(3)).item() / 3
    loss = affinity_loss(student, teacher, torch.tensor(4.0), torch.tensor(7.0))
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


def test_feature_by_hand() -> None:
    """Orthogonal unit vectors are √2 apart: 2 for the first modality, 0 for the second."""
    student = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    assert feature_loss(student, teacher).item() == pytest.approx(2.0)


def test_objective_weighs_its_terms() -> None:
    student, teacher = (unit(4, 3), unit(4, 3, seed=1)), (unit(4, 3, seed=2), unit(4, 3, seed=3))
    scale = torch.tensor(3.0)
    terms = Objective(contrastive=0.5, affinity=2.0, feature=0.0)(student, scale, teacher, scale)
    assert terms.keys() == {"contrastive", "affinity"}
    torch.testing.assert_close(terms["contrastive"], 0.5 * contrastive_loss(*student, scale))
    torch.testing.assert_close(
        terms["affinity"], 2.0 * affinity_loss(student, teacher, scale, scale)
    )
    assert not Objective(contrastive=1.0).needs_teacher


def test_bad_weights() -> None:
    with pytest.raises(ValueError, match=r"objective.affinity=-1 must not be negative"):
        Objective(affinity=-1)
    with pytest.raises(ValueError, match="every weight of the objective is 0"):
        Objective(contrastive=0.0)
