"""A checkpoint is the old one or the new one, whenever the process ends."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from mmcompress.backbones.base import Backbone
from mmcompress.checkpoints import Checkpoint, WholeFiles
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.objectives.objective import Objective
from mmcompress.training import CompressionModule


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
    module = CompressionModule(tiny_backbone, Recipe(), Objective(), optimizer=torch.optim.AdamW)
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
    trainer.fit(module, tiny_data)
    assert type(trainer.strategy.checkpoint_io) is WholeFiles
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
