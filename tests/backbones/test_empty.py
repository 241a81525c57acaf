"""A skeleton without weights has everything else."""

import torch
from torch import nn
from transformers import CLIPModel

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.empty import without_weights


def test_only_parameters_are_left_out(tiny_backbone: Backbone) -> None:
    dense = tiny_backbone.model
    with without_weights():
        empty = CLIPModel(dense.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    shapes = [(name, p.shape, p.dtype, p.requires_grad) for name, p in dense.named_parameters()]
    found = [(name, p.shape, p.dtype, p.requires_grad) for name, p in empty.named_parameters()]
    assert found == shapes
    buffers = dict(empty.named_buffers())
    assert buffers
    for name, buffer in dense.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_ties_hold_and_it_ends() -> None:
    with without_weights():
        layers = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        layers[1].weight = layers[0].weight
    assert layers[0].weight is layers[1].weight
    assert not nn.Linear(3, 3).weight.is_meta


def test_nothing_is_drawn() -> None:
    drawn = torch.ones(3)
    with without_weights():
        nn.init.normal_(drawn)
    assert torch.equal(drawn, torch.ones(3))
    nn.init.zeros_(drawn)
    assert not drawn.any()
