"""What a compressed part does to the embeddings, or to the answers, of the whole model."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, Generator, encoder
from mmcompress.backbones.passes import LABELS
from mmcompress.functional.distillation import affinity_loss, feature_loss
from mmcompress.functional.finite import check_rows
from mmcompress.functional.tokens import IGNORED
from mmcompress.search.replay import Replay


def proxy_loss(
    dense: Backbone, batches: Sequence[dict[str, Tensor]], pairs: int
) -> "EmbeddingLoss | AnswerLoss":
    """What compares a changed model with the dense one, by what that gives.

    Args:
        batches: calibration data.
        pairs: how many pairs or examples to use, from the first.
    Raises:
        ValueError: it gives neither embeddings nor answers.
    """
    if isinstance(dense, Generator) and dense.reads_examples:
        return AnswerLoss(dense, batches, pairs)
    return EmbeddingLoss(dense, batches, pairs)


class AnswerLoss:
    """What a change does to the tokens that a generative model expects.

    Args:
        dense: the model to compare with.
        batches: calibration data.
        pairs: how many examples to use, from the first, in whole batches.
    """

    def __init__(self, dense: Generator, batches: Sequence[dict[str, Tensor]], pairs: int) -> None:
        counts = itertools.accumulate((len(b[LABELS]) for b in batches), initial=0)
        self.batches = [b for b, before in zip(batches, counts, strict=False) if before < pairs]
        self.replay = Replay()
        self.dense = [
            self._expected(dense, index, self.replay.recording(dense, index))
            for index in range(len(self.batches))
        ]

    def loss(self, backbone: Backbone, modality: str, changed: str = "") -> float:
        """Kullback-Leibler divergence from the dense model's expectations, in nats per token.

        Args:
            backbone, changed: of `EmbeddingLoss.loss`.
            modality: the tower they lie in; the whole model runs.
        """
        assert isinstance(backbone, Generator)
        total, tokens = 0.0, 0
        for index, theirs in enumerate(self.dense):
            within = self.replay.skipping(backbone, changed, index)
            ours = self._expected(backbone, index, within)
            total += float(F.kl_div(ours, theirs, reduction="sum", log_target=True))
            tokens += len(ours)
        return total / tokens

    @torch.no_grad()
    def _expected(
        self, backbone: Generator, index: int, within: AbstractContextManager[object]
    ) -> Tensor:
        """Log probabilities (tokens, V) of the tokens of all answers of a batch."""
        training = backbone.training
        backbone.eval()
        with within:
            logits, targets = backbone.answer_logits(self.batches[index])
        backbone.train(training)
        rows = logits[targets != IGNORED].float().log_softmax(dim=-1)
        return check_rows("expectations of calibration examples", rows)


class EmbeddingLoss:
    """What a change of one tower does to the embeddings of calibration pairs.

    Args:
        dense: the model to compare with.
        batches: calibration data.
        pairs: how many pairs to use, from the first.
    """

    def __init__(self, dense: Backbone, batches: Sequence[dict[str, Tensor]], pairs: int) -> None:
        self.batches, self.pairs = batches, pairs
        self.replays = {m: Replay() for m in dense.modalities}
        self.dense = {
            m: self._embed(dense, m, partial(replay.recording, dense))
            for m, replay in self.replays.items()
        }
        self.scale = _encoder(dense).logit_scale.detach()

    def loss(self, backbone: Backbone, modality: str, changed: str = "") -> float:
        """Squared distance of the embeddings plus divergence of the similarities.

        Args:
            backbone: with some weights changed.
            modality: the tower they lie in; `shared` for both.
            changed: path of the module or parameter that all of them lie in, so that blocks before
                it are not run again; empty for the whole model.
        """
        embeddings = {
            m: self._embed(backbone, m, partial(self.replays[m].skipping, backbone, changed))
            if modality in (m, "shared")
            else self.dense[m]
            for m in self.dense
        }
        # With a single tower the similarities are those among its own embeddings.
        (first, *_), (*_, last) = embeddings.values(), embeddings.values()
        (dense_first, *_), (*_, dense_last) = self.dense.values(), self.dense.values()
        ours, theirs = (first, last), (dense_first, dense_last)
        loss = feature_loss(ours, theirs) + affinity_loss(ours, theirs, self.scale, self.scale)
        return float(loss)

    @torch.no_grad()
    def _embed(
        self,
        backbone: Backbone,
        modality: str,
        within: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> Tensor:
        """(pairs, D); each batch, by its number, is run in the context `within`."""
        training = backbone.training
        backbone.eval()
        # Texts of different batches are padded to different lengths.
        parts, left = [], self.pairs
        for index, batch in enumerate(self.batches):
            with within(index):
                parts.append(_encoder(backbone).encode(modality, batch[modality][:left]))
            left -= len(parts[-1])
            if left <= 0:
                break
        backbone.train(training)
        return check_rows(f"{modality} embeddings of calibration pairs", torch.cat(parts).float())


def _encoder(backbone: Backbone) -> Encoder:
    return encoder(backbone, "a budget compares", "choose a recipe without a budget")
