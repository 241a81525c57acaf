"""What a model expects of the right texts, each token given all right ones before it."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode
from mmcompress.evaluation.generation import answered
from mmcompress.functional.finite import check_rows
from mmcompress.functional.score import Score
from mmcompress.functional.tokens import IGNORED, perplexity, token_agreement, token_losses
from mmcompress.system.progress import progress


class TeacherForced:
    """Yields `teacher_forced/cross_entropy`, in nats per token, and `teacher_forced/perplexity`.

    Both over all tokens of the texts of a split. A text that a model loops on says little by its
    errors; here every token is judged once.
    """

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        if not answered(data, split, "evaluation of answers"):
            return
        found = [
            token_losses(*encode.answer_logits(batch))
            for batch in progress(data.eval_dataloader(split), "read texts")
        ]
        losses, tokens = (torch.cat(part) for part in zip(*found, strict=True))
        check_rows(f"losses of the texts of {split}", losses)
        yield "teacher_forced/cross_entropy", Score(_parts(losses, tokens))
        yield "teacher_forced/perplexity", perplexity(losses, tokens)


class TokenAgreement:
    """Yields `agreement/tokens`, `agreement/logit_kl` and `agreement/first_differing`.

    The share of tokens of the right texts at which the compressed model finds the same token most
    probable as the dense one; the Kullback-Leibler divergence of its expectations from the dense
    model's, in nats per token; and how many tokens of a text come before the first at which they
    differ, on average (all of them where none does).
    """

    def compare(
        self, encode: Encode, dense: Encode, data: PairData, split: str
    ) -> Iterator[tuple[str, float]]:
        if not answered(data, split, "agreement of tokens"):
            return
        found = []
        for batch in progress(data.eval_dataloader(split), "compare tokens"):
            ours, targets = encode.answer_logits(batch)
            theirs, _ = dense.answer_logits(batch)
            found.append(token_agreement(ours, theirs, targets != IGNORED))
        same, divergence, before, tokens = (torch.cat(part) for part in zip(*found, strict=True))
        check_rows(f"divergences of the texts of {split}", divergence)
        yield "agreement/tokens", Score(_parts(same, tokens))
        yield "agreement/logit_kl", Score(_parts(divergence, tokens))
        yield "agreement/first_differing", Score(_parts(before, torch.ones_like(before)))


def _parts(sums: Tensor, counts: Tensor) -> np.ndarray:
    """(N,) each → what `Score` takes of a mean over all that is counted."""
    return torch.stack([sums.double(), counts.double()], dim=1)[:, None].numpy()
