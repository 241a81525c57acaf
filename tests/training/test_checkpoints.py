"""A checkpoint is the old one or the new one, whenever the process ends; a damaged one is found."""

import errno
import io
import os
import random
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from mmcompress.backbones.base import Backbone
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.objectives.objective import Objective
from mmcompress.records.folder import CHECKPOINT, previous_checkpoint
from mmcompress.session import _last_checkpoint
from mmcompress.system.files import FullDisk, damage
from mmcompress.training.checkpoints import Checkpoint, WholeFiles
from mmcompress.training.module import CompressionModule, TrainingData


def test_a_write_that_is_cut_short_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 20}, path)

    def stop(checkpoint: object, file) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        WholeFiles().save_checkpoint({"step": 40}, path)
    assert WholeFiles().load_checkpoint(path) == {"step": 20}
    assert list(path.parent.iterdir()) == [path]


def test_a_fit_writes_whole_files(
    tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    module = CompressionModule(
        Recipe().restore(tiny_backbone, {}), Objective(), optimizer=torch.optim.AdamW
    )
    checkpoint = Checkpoint(tmp_path, filename="last", every_n_train_steps=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        max_steps=2,
    )
    trainer.fit(module, TrainingData(tiny_data))
    assert type(trainer.strategy.checkpoint_io) is WholeFiles
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "last.previous.ckpt"}
    for name, step in (("last", 2), ("last.previous", 1)):
        assert torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["global_step"] == step


STATE = {"plan": {"x": 1}, "state_dict": {"a": torch.arange(40.0), "b": torch.ones(2, 3)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a checkpoint of step 2, and one of step 1 before it."""
    for step in (1, 2):
        WholeFiles().save_checkpoint({**STATE, "global_step": step}, tmp_path / CHECKPOINT)
    return tmp_path


def test_every_flipped_bit_is_found_or_changes_nothing(folder: Path) -> None:
    path = folder / CHECKPOINT
    whole = path.read_bytes()
    assert damage(path) is None
    found = 0
    for position in range(0, len(whole), 9):
        bit = 1 << random.Random(position).randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        if damage(path) is not None:
            found += 1
            continue
        try:
            read = torch.load(path, weights_only=True)
        except RuntimeError:  # torch has noticed it
            continue
        assert read["global_step"] == 2
        assert torch.equal(read["state_dict"]["a"], torch.arange(40.0))
        assert torch.equal(read["state_dict"]["b"], torch.ones(2, 3))
    assert found > len(whole) / 9 / 4  # the rest is padding, and times of files


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_found(folder: Path, share: float) -> None:
    path = folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert damage(path) is not None


def flip(path: Path) -> None:
    """A bit of the first tensor."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(40.0).numpy().tobytes()) + 7] ^= 16
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / CHECKPOINT
    flip(path)
    found, calibrated = _last_checkpoint(folder)
    assert found == previous_checkpoint(path)
    assert calibrated == {"plan": {"x": 1}, "budget": None}
    assert torch.load(found, weights_only=True)["global_step"] == 1
    assert path.with_name("last.ckpt.damaged").exists()
    (message,) = caplog.messages
    assert message.startswith(f"{path} is damaged ({path} cannot be read as a checkpoint: its part")
    assert message.endswith("and now called last.ckpt.damaged: the one before it is tried")

    caplog.clear()
    flip(found)
    assert _last_checkpoint(folder) == (None, None)
    assert caplog.messages[0].endswith("now called last.previous.ckpt.damaged: beginning anew")


def test_a_kill_between_the_two_renames_loses_nothing(folder: Path) -> None:
    path = folder / CHECKPOINT
    path.replace(previous_checkpoint(path))
    found, _ = _last_checkpoint(folder)
    assert found == previous_checkpoint(path)
    assert torch.load(found, weights_only=True)["global_step"] == 2


def test_a_full_disk_is_said_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says "unexpected pos 704 vs 598"."""

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = folder / CHECKPOINT
    monkeypatch.setattr(Path, "open", lambda self, mode: Full(self, mode))
    with pytest.raises(FullDisk) as caught:
        WholeFiles().save_checkpoint(STATE, path)
    assert str(caught.value).startswith(f"{path} needs more than the ")
    assert str(caught.value).endswith(
        " MB that are free on its disk: make room, and repeat the command"
    )
    assert torch.load(path, weights_only=True)["global_step"] == 2
    assert len(list(path.parent.iterdir())) == 2
