"""Perplexity of captions, given their images."""

import logging
from collections.abc import Iterator

import torch
from rich import get_console
from rich.progress import track

from mmcompress.backbones.capabilities import generator
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode
from mmcompress.functional.finite import check_rows
from mmcompress.functional.tokens import perplexity, token_losses

log = logging.getLogger(__name__)


class Perplexity:
    """Yields `captioning/perplexity`, over all captions of a split; of answers the first."""

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        if not data.splits[split].captioned:
            log.warning("data %s has no captions in %s: perplexity left out", data.name, split)
            return
        fix = "choose backbone=llava, or evaluation=default"
        generator(data.backbone, "perplexity needs", fix)
        bar = track(
            data.eval_dataloader(split),
            description="read captions",
            transient=True,
            disable=not get_console().is_terminal,
        )
        found = []
        for batch in bar:
            if "owner" in batch:  # each caption has its image before it
                batch = {"image": batch["image"][batch["owner"]], "text": batch["text"]}
            found.append(token_losses(*encode.answer_logits(batch)))
        losses, tokens = (torch.cat(part) for part in zip(*found, strict=True))
        check_rows(f"losses of the captions of {split}", losses)
        yield "captioning/perplexity", perplexity(losses, tokens)
