"""Checkpoints that neither a kill nor a damaged disk can spoil."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from mmcompress.system.files import write_atomically

PREVIOUS = ".previous"
"""Before the suffix of the checkpoint that was the last one before."""


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
        write_atomically(path, lambda file: torch.save(checkpoint, file), keep=previous(path))


class Checkpoint(ModelCheckpoint):
    """Lightning's, with files that are replaced whole or not at all.

    A strategy that brings its own way of writing, such as sharded states, keeps it.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFiles()


def previous(checkpoint: Path) -> Path:
    """Where the checkpoint is kept that `checkpoint` has replaced.

    Example:
        >>> previous(Path("checkpoints/last.ckpt")).as_posix()
        'checkpoints/last.previous.ckpt'
    """
    return checkpoint.with_name(f"{checkpoint.stem}{PREVIOUS}{checkpoint.suffix}")
