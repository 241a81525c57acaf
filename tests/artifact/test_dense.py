"""The dense figure is that of the library's own file, and takes no weight into memory."""

import copy
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import nn

from mmcompress.artifact.dense import dense_checksum, dense_file_bytes
from mmcompress.backbones.hf.clip import HFClip


def test_it_is_the_size_of_the_file_with_the_weights(backbone: HFClip, tmp_path: Path) -> None:
    model = backbone.model
    layers = model.vision_model.encoder.layers
    layers[1].mlp.fc1.weight = layers[0].mlp.fc1.weight  # tied
    layers[1].mlp.fc2.weight.data = layers[0].mlp.fc2.weight.data  # by its memory alone
    model.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
    model.half_precise = nn.Parameter(torch.randn(5, 7).bfloat16().T)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = dense_file_bytes(model)
    save_model(model, str(tmp_path / "model.safetensors"))
    assert found == (tmp_path / "model.safetensors").stat().st_size
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_the_checksum_is_that_of_names_and_values() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    first = dense_checksum(model)
    assert dense_checksum(copy.deepcopy(model)) == first
    renamed = nn.Sequential(OrderedDict(a=model[0], b=model[1]))
    assert dense_checksum(renamed) != first
    with torch.no_grad():
        model[1].bias[0] += 1
    assert dense_checksum(model) != first
