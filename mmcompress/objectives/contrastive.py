"""The symmetric contrastive loss that CLIP was trained with (arXiv:2103.00020, figure 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(first: Tensor, second: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean over both directions of the cross entropy of finding the partner in the batch.

    Args:
        first, second: (B, D), L2-normalised; row i of one belongs to row i of the other.
        logit_scale: scalar, inverse temperature.
    Returns:
        Scalar; log B when nothing was learnt, 0 at best.
    """
    logits = logit_scale * first @ second.T  # B B
    partner = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
