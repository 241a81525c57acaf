"""What a change does to the tokens that a generative model expects, and budgets by it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import mmcompress as mmc
from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.functional.tokens import IGNORED
from mmcompress.search.proxy_loss import AnswerLoss, proxy_loss
from mmcompress.testing.zoo.family import examples_for
from mmcompress.testing.zoo.speech import build_whisper

PLACE = "model.decoder.layers.1.encoder_attn.v_proj"


@pytest.fixture
def dense():
    return build_whisper()


@pytest.fixture
def batches(dense):
    return [dense.prepare(examples_for(dense, number)) for number in (3, 2, 4)]


def test_it_is_the_divergence_per_token_of_the_first_batches(dense, batches) -> None:
    proxy = proxy_loss(dense, batches, pairs=4)
    assert isinstance(proxy, AnswerLoss)
    assert proxy.loss(dense, "text") == pytest.approx(0, abs=1e-6)
    changed = copy.deepcopy(dense)
    with torch.no_grad():
        changed.model.get_submodule(PLACE).weight.mul_(0.5)
        rows = []
        for batch in batches[:2]:
            valid = batch["labels"] != IGNORED
            p, q = (m.answer_logits(batch)[0][valid].softmax(-1) for m in (dense, changed))
            rows.append((p * (p / q).log()).sum(dim=-1))
    expected = torch.cat(rows).mean().item()
    for place in (PLACE, ""):  # blocks before the change may be left out
        assert proxy.loss(changed, "text", place) == pytest.approx(expected, rel=1e-4)


def test_a_budget_is_kept_to(dense, tmp_path: Path) -> None:
    waves = np.random.default_rng(0).uniform(-0.3, 0.3, (4, 7000)).astype(np.float32)
    pairs = [((wave, 8000), text) for wave, text in zip(waves, ["one", "two", "six"], strict=False)]
    total = dense_file_bytes(dense.model)
    sizes = [
        mmc.compress(dense, "entropy", data=pairs, budget=ratio).save(tmp_path / str(ratio)).bytes
        for ratio in (3.0, 5.0)
    ]
    assert 0.8 * total / 3 < sizes[0] <= total / 3
    assert 0.8 * total / 5 < sizes[1] <= total / 5
