"""Losses of the tokens of a text, and their perplexity."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position that no loss is asked for."""

PADDING, TEXT, IMAGE, AUDIO = range(4)
"""What a token of a sequence stands for."""


def token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the tokens of each caption.

    Args:
        logits: (B, L, V).
        targets: (B, L), `IGNORED` where none is asked for.
    Returns:
        Cross entropies in nats, and how many tokens there are: (B,) each.
    """
    losses = F.cross_entropy(
        logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(dim=1), (targets != IGNORED).sum(dim=1)


def perplexity(losses: Tensor, tokens: Tensor) -> float:
    """exp of the mean cross entropy of all tokens.

    Args:
        losses, tokens: (N,), sums over the tokens of each caption.

    Example:
        >>> round(perplexity(torch.tensor([0.0, 2.0794415]), torch.tensor([1, 2])), 4)
        2.0
    """
    return torch.exp(losses.double().sum() / tokens.sum()).item()
