"""The symmetric contrastive loss that CLIP was trained with (arXiv:2103.00020, figure 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    first: Tensor, second: Tensor, logit_scale: Tensor, concept: Tensor | None = None
) -> Tensor:
    """Mean over both directions of the cross entropy of finding the partner in the batch.

    Where pairs share a concept, each is as right as another: the unified contrastive loss of UniCL
    (Yang et al. 2022, arXiv:2204.03610, eq. 2-4).

    Args:
        first, second: (B, D), L2-normalized; row i of one belongs to row i of the other.
        logit_scale: scalar, inverse temperature.
        concept: (B,) int64, equal for pairs that say the same; None when all differ.
    Returns:
        Scalar; log B when nothing was learnt, 0 at best where all differ.
    """
    logits = logit_scale * first @ second.T  # B B
    right = partners(len(logits), concept).to(logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def partners(size: int, concept: Tensor | None) -> Tensor:
    """Targets of the cross entropy: indices (B,), or shares (B, B) where concepts are given.

    Args:
        size: B, pairs of the batch.
        concept: (B,), equal for pairs that are partners of one another; None when none are.
    """
    if concept is None:
        return torch.arange(size)
    same = (concept[:, None] == concept).float()  # B B
    return same / same.sum(dim=1, keepdim=True)
