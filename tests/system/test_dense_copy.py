"""A copy that shares memory: equal, private, and no larger than what has changed."""

import copy
import errno
import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.system.files import FullDisk
from mmcompress.system.memory import LARGE, dense_copy, hand_back_memory


def model() -> nn.Sequential:
    """Two layers of 1 and 2 MB, with small biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 1024))


def written() -> int:
    """Bytes of the process that lie in no file, or no more, as it has written to them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def test_both_hold_what_the_model_held() -> None:
    tensors = {
        "floats": torch.randn(700, 800),
        "turned": torch.randn(800, 700).T,
        "halves": torch.randn(1024, 1024).bfloat16(),
        "flags": torch.rand(1024, 2000) < 0.5,
        "small": torch.arange(5),
        "scalar": torch.tensor(0.25),
        "empty": torch.empty(0, 3),
    }
    weights = {name: nn.Parameter(t.clone(), requires_grad=False) for name, t in tensors.items()}
    weights["turned"].data = tensors["turned"]
    original = nn.ParameterDict(weights)
    for found in (dense_copy(original), original):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            weight = found[name]
            assert torch.equal(weight, tensor), name
            assert weight.dtype == tensor.dtype, name
            # One that is saved or copied does not drag the others along.
            assert weight.untyped_storage().nbytes() == tensor.nbytes, name
            if tensor.nbytes >= LARGE:
                assert weight.is_contiguous(), name
                assert weight.data_ptr() % 64 == 0, name


def test_small_weights_need_no_file() -> None:
    found = dense_copy(nn.Linear(3, 3))
    assert found.weight.shape == (3, 3)


def test_neither_sees_what_the_other_writes() -> None:
    original = model()
    before = {key: tensor.clone() for key, tensor in original.state_dict().items()}
    twin = dense_copy(original)
    for written, other in ((original, twin), (twin, original)):
        with torch.no_grad():
            for parameter in written.parameters():
                parameter[1:].zero_()
        for key, tensor in other.state_dict().items():
            assert torch.equal(tensor[:1], before[key][:1]), key
            assert written is twin or torch.equal(tensor, before[key]), key


def test_training_leaves_the_copy_alone() -> None:
    student = model()
    teacher = dense_copy(student)
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
    for found in (tied, dense_copy(tied)):
        assert found[2].weight is found[0].weight
        assert found[3].weight.data_ptr() == found[0].weight.data_ptr()
        assert [p.requires_grad for p in found[1].parameters()] == [False, True]


def test_a_backbone_computes_the_same(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcompress.system.memory.LARGE", 1)
    pixels, ids = torch.rand(2, 3, 32, 32), tiny_backbone.tokenize(["red cat", "dog"])
    inputs = {"image": pixels, "text": ids}
    with torch.no_grad():
        expected = {m: tiny_backbone.encode(m, inputs[m]) for m in inputs}
        for found in (dense_copy(tiny_backbone), tiny_backbone):
            for m in inputs:
                assert torch.equal(found.encode(m, inputs[m]), expected[m])


def test_weights_of_both_are_the_same_memory_until_one_changes(
    resident: Callable[[Tensor], int],
) -> None:
    original = nn.Linear(1024, 1024)
    other = dense_copy(original)
    assert resident(original.weight) == resident(other.weight) == 0
    assert torch.equal(original.weight, other.weight)
    before = written()
    with torch.no_grad():
        other.weight[:512] = 0
    half = original.weight.nbytes // 2
    assert half <= written() - before < 1.2 * half


def test_unwritten_weights_are_handed_back_and_written_ones_stay(
    resident: Callable[[Tensor], int],
) -> None:
    student = nn.Linear(1024, 1024, bias=False)
    teacher = dense_copy(student)
    dense, half = teacher.weight.detach().clone(), student.weight.nbytes // 2
    with torch.no_grad():
        student.weight[512:] = -1.0
    assert not torch.equal(student.weight, teacher.weight)
    assert torch.equal(teacher.weight, dense)
    assert [resident(student.weight), resident(teacher.weight)] == [2 * half, 2 * half]
    hand_back_memory()
    assert [resident(student.weight), resident(teacher.weight)] == [half, 0]
    assert torch.equal(teacher.weight, dense)
    assert torch.equal(student.weight[:512], dense[:512])
    assert bool((student.weight[512:] == -1.0).all())


def test_a_model_that_is_gone_is_not_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr("mmcompress.system.memory._drop_unwritten_pages", looked.append)
    gc.collect()
    hand_back_memory()
    others = len(looked)
    student = nn.Linear(1024, 1024)
    teacher = dense_copy(student)
    looked.clear()
    hand_back_memory()
    assert len(looked) == others + 2
    del student, teacher
    gc.collect()
    looked.clear()
    hand_back_memory()
    assert len(looked) == others


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mmcompress.system.memory.tempfile.TemporaryFile", full)
    with pytest.raises(FullDisk) as caught:
        dense_copy(nn.Linear(3, 3))
    assert str(caught.value).startswith(str(Path(tempfile.gettempdir()) / "weights"))
    assert str(caught.value).endswith("make room there, or name another folder in TMPDIR")
