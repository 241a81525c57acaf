"""Checkpoints that neither a kill nor a damaged disk can spoil."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from mmcompress.records.folder import previous_checkpoint
from mmcompress.system.files import write_atomically


class WholeFiles(TorchCheckpointIO):
    """Writes whole files, and keeps the one that was there before.

    Lightning's own writes to the temporary folder and moves the file from there, which is a copy
    where that folder lies on another disk: a kill in the middle of it leaves half a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            path, lambda file: torch.save(checkpoint, file), keep=previous_checkpoint(path)
        )


class Checkpoint(ModelCheckpoint):
    """Lightning's, with files that are replaced whole or not at all.

    A strategy that brings its own way of writing, such as sharded states, keeps it.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFiles()
