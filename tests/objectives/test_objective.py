"""How the terms are weighted."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.functional.distillation import (
    affinity_loss,
    feature_loss,
    interactive_loss,
)
from mmcompress.objectives.objective import Objective
from mmcompress.system.locations import project_path


def test_terms_are_weighted():
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = F.normalize(torch.randn(4, 6, 5, generator=generator), dim=-1)
    ours, theirs = torch.tensor(3.0), torch.tensor(4.0)
    objective = Objective(contrastive=0.5, affinity=2.0, feature=3.0, interactive=4.0)
    found = objective.terms((a, b), ours, (c, d), theirs)
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
    assert list(objective.terms(pair, scale, pair, scale)) == [name]


def test_without_distillation_no_teacher_is_asked_for():
    found = Objective().terms((torch.eye(2), torch.eye(2)), torch.tensor(1.0))
    assert list(found) == ["contrastive"]


@pytest.mark.parametrize("name", ["contrastive", "affinity", "feature", "interactive"])
def test_a_negative_weight(name: str):
    with pytest.raises(ValueError, match=rf"objective\.{name}=-0\.1 must not be negative"):
        Objective(**{name: -0.1})


def test_no_weight_at_all():
    with pytest.raises(ValueError, match="every weight of the objective is 0: set at least one"):
        Objective(contrastive=0.0)


def configured(name: str) -> Any:
    return instantiate(OmegaConf.load(project_path("conf") / "objective" / f"{name}.yaml"))


def batch_of(width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    v, s, v_teacher, s_teacher = F.normalize(torch.randn(4, 6, width, generator=generator), dim=-1)
    return v, s, v_teacher, s_teacher


def test_clip_kd_as_published() -> None:
    """L_CLIP + L_CRD + L_ICL + 2000 L_FD of arXiv:2307.12732, FD a mean over 512 features."""
    v, s, v_teacher, s_teacher = batch_of(512)
    tau, tau_teacher = 1 / 3.0, 1 / 4.0
    size = len(v)

    def distribution(anchor: Tensor, others: Tensor, tau: float) -> Tensor:
        return torch.stack([(anchor @ other / tau).exp() for other in others]) / sum(
            (anchor @ other / tau).exp() for other in others
        )

    def contrast(anchors: Tensor, others: Tensor) -> Tensor:
        losses = [-distribution(anchors[k], others, tau)[k].log() for k in range(size)]
        return torch.stack(losses).mean()

    def relation(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
        total = torch.zeros(())
        for k in range(size):
            q = distribution(ours[0][k], ours[1], tau)
            p = distribution(theirs[0][k], theirs[1], tau_teacher)
            total = total + (p * (p / q).log()).sum()
        return total / size

    clip = (contrast(v, s) + contrast(s, v)) / 2
    crd = relation((v, s), (v_teacher, s_teacher)) + relation((s, v), (s_teacher, v_teacher))
    icl = (contrast(v, s_teacher) + contrast(s, v_teacher)) / 2
    fd = F.mse_loss(v, v_teacher) + F.mse_loss(s, s_teacher)
    expected = clip + crd + icl + 2000 * fd
    terms = configured("clip_kd").terms(
        (v, s), torch.tensor(1 / tau), (v_teacher, s_teacher), torch.tensor(1 / tau_teacher)
    )
    assert float(sum(terms.values())) == pytest.approx(float(expected), rel=1e-5)  # float32
    assert float(2000 * fd) == pytest.approx(float(terms["feature"]), rel=1e-5)


def test_tinyclip_as_published() -> None:
    """Affinity mimicking of arXiv:2309.12314, eq. 2-4, less the teacher's entropy."""
    v, s, v_teacher, s_teacher = batch_of(16)
    scale, total = 50.0, torch.zeros(())
    for ours, theirs in [
        (v @ s.T, v_teacher @ s_teacher.T),
        (s @ v.T, s_teacher @ v_teacher.T),
    ]:
        for our_row, their_row in zip(scale * ours, scale * theirs, strict=True):
            q, p = our_row.exp() / our_row.exp().sum(), their_row.exp() / their_row.exp().sum()
            total = total - (p * q.log()).sum() + (p * p.log()).sum()
    terms = configured("tinyclip").terms(
        (v, s), torch.tensor(scale), (v_teacher, s_teacher), torch.tensor(scale)
    )
    assert list(terms) == ["affinity"]
    assert float(terms["affinity"]) == pytest.approx(float(total) / (2 * len(v)), rel=1e-4)
