"""Compression-aware fine-tuning as a Lightning module."""

import pickle
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from mmcompress.backbones.base import Backbone
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.functional.finite import check_rows, check_trained
from mmcompress.objectives.base import Loss
from mmcompress.system.distributed import gather
from mmcompress.system.files import damage
from mmcompress.system.memory import free_as_usual, keep_freed_memory
from mmcompress.system.seeds import seed_from
from mmcompress.training.rates import parameter_groups, scale_rates, warmup_cosine
from mmcompress.training.sharding import shard, whole_weights


class CompressionModule(pl.LightningModule):
    """Fine-tune what a recipe has made of a backbone.

    Args:
        compressed: the student; its schedules and penalties run here, and its plan travels in every
            checkpoint.
        objective: the loss.
        optimizer: parameter groups → optimizer.
        warmup_ratio: share of the steps in which the learning rate rises from zero; a cosine to
            zero follows.
        teacher: the dense backbone; needed when the objective looks at it.
        seed: of the random numbers of each step, whatever has been drawn before it.
        budget: report of the search that has found the plan; it travels in every checkpoint too.
        part_lr: part of the model → its share of the learning rate; 1 where it is not named.
    """

    def __init__(
        self,
        compressed: Compressed,
        objective: Loss,
        *,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        warmup_ratio: float = 0.1,
        teacher: Backbone | None = None,
        seed: int = 0,
        budget: dict[str, Any] | None = None,
        part_lr: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if objective.needs_teacher and teacher is None:
            raise ValueError("this objective needs the dense model: give it as teacher")
        if not 0 <= warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio={warmup_ratio} must lie in [0, 1]")
        self.backbone = compressed.backbone.train()
        self.compressed = compressed
        self.budget = budget
        self.objective = objective
        self.optimizer = optimizer
        self.warmup_ratio = warmup_ratio
        self.seed = seed
        self.part_lr = dict(part_lr or {})
        # In a tuple, so that it is neither a submodule nor in any checkpoint.
        self._teacher: tuple[Backbone, ...] = ()
        if teacher is not None:
            self._teacher = (teacher.eval().requires_grad_(False),)

    def configure_model(self) -> None:
        # Only a strategy that splits the model gives a mesh; a second `fit` finds it split.
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            shard(self, self.compressed, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_start(self) -> None:
        keep_freed_memory()

    def on_train_end(self) -> None:
        free_as_usual()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_from(self.seed, self.global_step, self.global_rank)
        progress = self.global_step / max(self._total_steps, 1)
        if self.compressed.has_schedule:
            with whole_weights(self):
                self.compressed.on_step(progress)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        teacher = next(iter(self._teacher), None)
        with parametrize.cached():
            terms = self.objective(self.backbone, batch, teacher=teacher, gather=_gathered)
        loss = sum(terms.values(), start=torch.zeros((), device=self.device))
        loss = loss + self.compressed.penalty()
        if not torch.isfinite(loss):
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            raise ValueError(
                f"the loss is {loss.item()} at step {self.global_step} with learning rate "
                f"{rate:.3g}: lower optimizer.lr, or raise warmup_ratio"
            )
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        return loss

    def on_validation_epoch_start(self) -> None:
        self._outputs: list[dict[str, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with parametrize.cached():
            self._outputs.append(self.objective.outputs(self.backbone, batch))

    def on_validation_epoch_end(self) -> None:
        outputs = {
            key: self._in_order(torch.cat([part[key] for part in self._outputs]))
            for key in self._outputs[0]
        }
        for key, rows in outputs.items():
            what = f"{key} embeddings" if key in self.backbone.modalities else key
            check_rows(f"{what} of val, at step {self.global_step},", rows)
        for name, value in self.objective.metrics(outputs).items():
            self.log(f"val/{name}", value, prog_bar=True, sync_dist=True)

    def _in_order(self, rows: Tensor) -> Tensor:
        """All rows of the split (N, …), of which each process has every world_size-th."""
        parts = gather(rows)
        if len({len(part) for part in parts}) > 1:  # some could not be read: pairs are still pairs
            return torch.cat(parts)
        loader = cast(DataLoader, self.trainer.val_dataloaders)
        return torch.stack(parts, dim=1).flatten(0, 1)[: len(cast(Sized, loader.dataset))]

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        optimizer = self.optimizer(parameter_groups(self.backbone, self.part_lr))
        scale_rates(optimizer.param_groups)
        schedule = LambdaLR(
            optimizer,
            lambda step: warmup_cosine(
                step, total=max(self._total_steps, 1), warmup_ratio=self.warmup_ratio
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def _total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plan"] = self.compressed.plan
        checkpoint["budget"] = self.budget


def _gathered(rows: Tensor) -> Tensor:
    """Those of all processes, with their gradients."""
    return torch.cat(gather(rows))


class TrainingData(pl.LightningDataModule):
    """The loaders of a data set, for `Trainer.fit`; Lightning asks for those that it needs.

    Args:
        data: attached to the backbone that is trained.
    """

    def __init__(self, data: PairData) -> None:
        super().__init__()
        self.data = data

    def train_dataloader(self) -> DataLoader:
        return self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader:
        return self.data.val_dataloader()


def check_optimizer(optimizer: Callable[[list[dict[str, Any]]], Optimizer]) -> None:
    """Refuse settings that PyTorch refuses once there are parameters, before a run has a folder.

    Raises:
        ValueError: names `optimizer`, and the setting as PyTorch does.
    """
    try:
        optimizer([{"params": [nn.Parameter(torch.zeros(1))]}])
    except (ValueError, TypeError) as error:
        raise ValueError(f"optimizer: {error}") from error


def trained(
    model: Backbone,
    data: PairData,
    objective: Loss,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    trainer: pl.Trainer,
    *,
    warmup_ratio: float = 0.1,
) -> Backbone:
    """A dense model that is trained before it is compressed: `backbone=trained`.

    Args:
        model: trained in place.
        data, objective, optimizer, warmup_ratio: as in `CompressionModule`; without a teacher.
        trainer: says for how long.
    Raises:
        ValueError: the training has diverged.
    """
    data.attach(model)
    module = CompressionModule(
        Recipe().restore(model, {}), objective, optimizer=optimizer, warmup_ratio=warmup_ratio
    )
    trainer.fit(module, TrainingData(data))
    check_trained(model)
    return model.eval().cpu()


def calibrated_in(checkpoint: str | Path) -> dict[str, Any]:
    """What `Recipe.restore` needs of a checkpoint of `CompressionModule`: `plan` and `budget`.

    Raises:
        ValueError: no such file, a damaged one, or not a checkpoint of a compression run.
    """
    try:
        problem = damage(Path(checkpoint))  # torch looks at no checksum
        if problem is not None:
            raise ValueError(f"{checkpoint} cannot be read as a checkpoint: {problem}")
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{checkpoint} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(content, dict) or "plan" not in content:
        raise ValueError(f"{checkpoint} holds no compression plan: it is of another program")
    return {"plan": content["plan"], "budget": content.get("budget")}


def cpu_precision() -> Literal["bf16-mixed", "32-true"]:
    """bf16 autocast where the CPU multiplies bf16 natively (AVX512-BF16, AMX), else float32.

    Without such units bf16 is many times slower than float32.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"
