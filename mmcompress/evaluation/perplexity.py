"""Perplexity of captions, given their images."""

import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from rich import get_console
from rich.progress import track
from torch import Tensor

from mmcompress.backbones.hf_generative import IGNORED
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode
from mmcompress.functional.finite import check_rows

log = logging.getLogger(__name__)


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


class Perplexity:
    """Yields `captioning/perplexity`, over all captions of a split."""

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        if not data.splits[split].captioned:
            log.warning("data %s has no captions in %s: perplexity left out", data.name, split)
            return
        bar = track(
            data.eval_dataloader(split),
            description="read captions",
            transient=True,
            disable=not get_console().is_terminal,
        )
        found = []
        for batch in bar:
            inputs = {"image": batch["image"][batch["owner"]], "text": batch["text"]}
            found.append(token_losses(*encode.caption_logits(inputs)))
        losses, tokens = (torch.cat(part) for part in zip(*found, strict=True))
        check_rows(f"losses of the captions of {split}", losses)
        yield "captioning/perplexity", perplexity(losses, tokens)
