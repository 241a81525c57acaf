"""Keeping a compressed student close to its dense teacher, by affinities and by features."""

import torch.nn.functional as F
from torch import Tensor

from mmcompress.functional.contrastive import partners


def softened_divergence(ours: Tensor, theirs: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of softened classes, times the square of the temperature.

    Args:
        ours, theirs: logits (N, classes).
    Returns:
        Scalar, at least 0; mean over the rows.
    """
    divergence = F.kl_div(
        (ours / temperature).log_softmax(dim=1),
        (theirs / temperature).log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return temperature**2 * divergence


def affinity_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    student_scale: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """Cross entropy between the batch's similarity distributions, both directions, less its floor.

    Affinity mimicking of TinyCLIP (Wu et al. 2023, arXiv:2309.12314, eq. 2-4), as the
    Kullback-Leibler divergence: the same gradient, and zero when student and teacher agree. The
    contrastive relational distillation of CLIP-KD (Yang et al. 2024, arXiv:2307.12732, eq. 5-7) is
    the same divergence, summed over the two directions where this is their mean.

    Args:
        student, teacher: two modalities each, (B, D), L2-normalized; D may differ between them.
        student_scale, teacher_scale: scalars, inverse temperatures.
    Returns:
        Scalar, at least 0.
    """
    ours = student_scale * student[0] @ student[1].T  # B B
    theirs = teacher_scale * teacher[0] @ teacher[1].T  # B B
    forth = softened_divergence(ours, theirs)
    back = softened_divergence(ours.T, theirs.T)
    return (forth + back) / 2


def feature_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distance of student and teacher embeddings, mean over pairs, sum over modalities.

    Feature distillation of CLIP-KD (Yang et al. 2024, arXiv:2307.12732) without its division by
    the width, so that one weight suits all widths.

    Args:
        student, teacher: two modalities each, (B, D), L2-normalized.
    Returns:
        Scalar in [0, 8].
    """
    distances = [(s - t).square().sum(dim=1).mean() for s, t in zip(student, teacher, strict=True)]
    return distances[0] + distances[1]


def interactive_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    student_scale: Tensor,
    concept: Tensor | None = None,
) -> Tensor:
    """Contrastive loss of each student embedding against the teacher's of the other modality.

    Interactive contrastive learning of CLIP-KD (Yang et al. 2024, arXiv:2307.12732, eq. 13-15).
    Where we differ: the temperature is the student's and not one of its own.

    Args:
        student, teacher: two modalities each, (B, D), L2-normalized, of one width.
        student_scale: scalar, inverse temperature.
        concept: (B,) int64, equal for pairs that say the same; None when all differ.
    Returns:
        Scalar; log B when nothing was learnt, 0 at best where all differ.
    """
    right = partners(len(student[0]), concept).to(student[0].device)
    forth = F.cross_entropy(student_scale * student[0] @ teacher[1].T, right)
    back = F.cross_entropy(student_scale * student[1] @ teacher[0].T, right)
    return (forth + back) / 2
