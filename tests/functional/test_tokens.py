"""Losses of tokens, and how far two models agree on them."""

import torch
from torch.nn.functional import one_hot

from mmcompress.functional.tokens import token_agreement


def logits(*ids):
    return 5.0 * one_hot(torch.tensor([ids]), 4).float()


def test_agreement_by_hand():
    valid = torch.tensor([[True, True, True, False]])
    same, divergence, before, tokens = token_agreement(
        logits(0, 1, 2, 3), logits(0, 3, 2, 0), valid
    )
    assert (same.item(), before.item(), tokens.item()) == (2, 1, 3)
    p = torch.tensor([5.0, 0, 0, 0]).softmax(0)
    expected = (p[0] - p[1]) * 5.0  # of two that differ in place alone
    torch.testing.assert_close(divergence, expected[None])


def test_padding_at_the_start_ends_no_agreement():
    valid = torch.tensor([[False, True, True]])
    same, _, before, _ = token_agreement(logits(3, 1, 2), logits(0, 1, 2), valid)
    assert (same.item(), before.item()) == (2, 2)


def test_a_model_agrees_with_itself():
    given = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    same, divergence, before, tokens = token_agreement(given, given, torch.ones(2, 3).bool())
    assert same.tolist() == before.tolist() == tokens.tolist() == [3, 3]
    assert divergence.abs().max() < 1e-6
