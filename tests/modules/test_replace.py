"""Modules that answer for a while without computing."""

import pytest
import torch
from torch import nn

from mmcompress.modules.replace import answering


def test_modules_answer_and_their_hooks_run() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    model, inputs = nn.Sequential(first, second, first), torch.ones(1, 2)
    before, seen = model(inputs), []
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with answering([first, first], lambda given: given + 1):
        assert torch.equal(model(inputs), second(inputs + 1) + 1)
    assert len(seen) == 2
    assert torch.equal(model(inputs), before)


def test_they_compute_again_after_an_error() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(KeyError), answering([layer], lambda given: given):
        raise KeyError
    assert not torch.equal(layer(torch.ones(1, 2)), torch.ones(1, 2))
