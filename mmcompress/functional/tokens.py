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


def token_agreement(ours: Tensor, theirs: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
    """How far two models agree on each text, summed over its tokens.

    Args:
        ours, theirs: logits (B, L, V); the second ones are those to agree with.
        valid: (B, L) bool, which tokens count.
    Returns:
        (B,) each: tokens at which both find the same one most probable; KL(theirs ‖ ours) in nats;
        tokens before the first at which they differ; tokens.

    Example:
        >>> ours, theirs = torch.eye(3)[None], torch.eye(3)[None, [0, 2, 2]]
        >>> same, _, before, tokens = token_agreement(ours, theirs, torch.ones(1, 3).bool())
        >>> same.item(), before.item(), tokens.item()
        (2, 1, 3)
    """
    same = torch.eq(ours.argmax(dim=-1), theirs.argmax(dim=-1))  # B L
    expected, given = theirs.float().log_softmax(-1), ours.float().log_softmax(-1)
    divergence = F.kl_div(given, expected, reduction="none", log_target=True).sum(dim=-1)
    agreed_so_far = (same | ~valid).cumprod(dim=1).bool() & valid
    return (
        (same & valid).sum(dim=1),
        divergence.masked_fill(~valid, 0.0).sum(dim=1),
        agreed_so_far.sum(dim=1),
        valid.sum(dim=1),
    )
