"""Checkpoints that a kill cannot spoil."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from mmcompress.files import write_atomically


class WholeFiles(TorchCheckpointIO):
    """Lightning's own writes to the temporary folder and moves the file from there, which is a copy
    where that folder lies on another disk: a kill in the middle of it leaves half a checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


class Checkpoint(ModelCheckpoint):
    """Lightning's, with files that are replaced whole or not at all.

    A strategy that brings its own way of writing, such as sharded states, keeps it.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFiles()
