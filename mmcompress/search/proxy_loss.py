"""What a compressed part does to the embeddings of the whole model."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, encoder
from mmcompress.functional.distillation import affinity_loss, feature_loss
from mmcompress.functional.finite import check_rows
from mmcompress.search.replay import Replay


class ProxyLoss:
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
