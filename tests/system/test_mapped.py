"""Weights in a file: equal, private, and in memory only while they are used."""

import copy
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.system.files import FullDisk
from mmcompress.system.mapped import layer_by_layer, mapped, mapped_copy
from mmcompress.system.memory import LARGE

Resident = Callable[[Tensor], int]


def model() -> nn.Sequential:
    """Two layers of 1 and 2 MB, with small biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 1024))


def test_what_comes_back_is_what_went_in() -> None:
    tensors = {
        "floats": torch.randn(700, 800),
        "turned": torch.randn(800, 700).T,
        "halves": torch.randn(1024, 1024).bfloat16(),
        "flags": torch.rand(1024, 2000) < 0.5,
        "small": torch.arange(5),
        "scalar": torch.tensor(0.25),
        "empty": torch.empty(0, 3),
    }
    first, second = mapped(tensors.items(), maps=2)
    assert first.keys() == second.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(first[name], tensor), name
        assert first[name].dtype == tensor.dtype, name
        assert first[name].is_contiguous(), name
        # One that is saved or copied does not drag the others along.
        assert first[name].untyped_storage().nbytes() == tensor.nbytes, name
        if tensor.nbytes >= LARGE:
            assert first[name].data_ptr() % 64 == 0, name


def test_without_large_tensors_there_is_no_file() -> None:
    (found,) = mapped([("a", torch.ones(3))])
    assert torch.equal(found["a"], torch.ones(3))


def test_neither_sees_what_the_other_writes() -> None:
    original = model()
    before = {key: tensor.clone() for key, tensor in original.state_dict().items()}
    twin = mapped_copy(original)
    for written, other in ((original, twin), (twin, original)):
        with torch.no_grad():
            for parameter in written.parameters():
                parameter[1:].zero_()
        for key, tensor in other.state_dict().items():
            assert torch.equal(tensor[:1], before[key][:1]), key
            assert written is twin or torch.equal(tensor, before[key]), key


def test_training_leaves_the_copy_alone() -> None:
    student = model()
    teacher = mapped_copy(student)
    before = copy.deepcopy(teacher)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1)
    student(torch.ones(1, 512)).sum().backward()
    optimizer.step()
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)), name
        assert not torch.equal(parameter, student.get_parameter(name)), name


def test_ties_and_frozen_weights_stay() -> None:
    tied = model()
    tied.append(nn.Linear(512, 512))
    tied[2].weight = tied[0].weight
    tied.append(nn.Linear(512, 512))
    tied[3].weight.data = tied[0].weight.data  # another object, the same memory
    tied[1].weight.requires_grad_(False)
    for found in (tied, mapped_copy(tied)):
        assert found[2].weight is found[0].weight
        assert found[3].weight.data_ptr() == found[0].weight.data_ptr()
        assert [p.requires_grad for p in found[1].parameters()] == [False, True]


def test_a_backbone_computes_the_same(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcompress.system.mapped.LARGE", 1)
    pixels, ids = torch.rand(2, 3, 32, 32), tiny_backbone.tokenize(["red cat", "dog"])
    inputs = {"image": pixels, "text": ids}
    with torch.no_grad():
        expected = {m: tiny_backbone.encode(m, inputs[m]) for m in inputs}
        for found in (mapped_copy(tiny_backbone), tiny_backbone):
            with layer_by_layer(found):
                for m in inputs:
                    assert torch.equal(found.encode(m, inputs[m]), expected[m])


def test_a_layer_gives_its_weights_back(resident: Resident) -> None:
    layers = model()
    mapped_copy(layers)
    weights = [layer.weight for layer in layers]
    assert [resident(weight) for weight in weights] == [0, 0]
    with layer_by_layer(layers):
        layers(torch.ones(1, 512))
        assert [resident(weight) for weight in weights] == [0, 0]
    layers(torch.ones(1, 512))
    assert [resident(weight) for weight in weights] == [weight.nbytes for weight in weights]


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mmcompress.system.mapped.tempfile.TemporaryFile", full)
    with pytest.raises(FullDisk) as caught:
        mapped([("a", torch.zeros(3))])
    assert str(caught.value).startswith(str(Path(tempfile.gettempdir()) / "weights"))
    assert str(caught.value).endswith("make room there, or name another folder in TMPDIR")
