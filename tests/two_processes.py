"""What one process computes, and two together; `test_processes.py` starts both and compares.

LOCAL_RANK=0 python -m tests.two_processes FOLDER    # and LOCAL_RANK=1, with MASTER_PORT
"""

import copy
import sys
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import LlavaForConditionalGeneration

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.generative import HFGenerative
from mmcompress.backbones.mlp import MLP
from mmcompress.compression.calibration import collect
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.pruning.sparsegpt import SparseGPT
from mmcompress.compression.pruning.upop import UPop
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.quantization.lsq import LSQ
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import GRADIENTS, INPUTS, LOSS_CHANGE
from mmcompress.data.base import PairData
from mmcompress.objectives.base import Loss
from mmcompress.objectives.captioning import Captioning
from mmcompress.objectives.classification import CrossEntropy
from mmcompress.objectives.objective import Objective
from mmcompress.search.budget import Budget
from mmcompress.search.planning import search
from mmcompress.system.distributed import gather, rank, size
from mmcompress.testing.zoo.hf import build_clip, llava_config
from mmcompress.testing.zoo.words import build_tokenizer
from mmcompress.training.launch import start_processes
from mmcompress.training.module import CompressionModule, TrainingData
from mmcompress.training.sharding import FullySharded, unsharded
from tests.conftest import TinyData

BATCH = 8
WAIT = timedelta(minutes=10)


def tiny_data(backbone: Backbone) -> PairData:
    """Three calibration batches; a step sees `BATCH` pairs, whatever the number of processes."""
    data = TinyData(batch_size=BATCH // size(), eval_batch_size=8, calibration_size=24)
    data.attach(backbone)
    return data


def calibrated() -> dict[str, Tensor]:
    """Every statistic of every weight."""
    backbone = build_clip()
    batches = list(tiny_data(backbone).calibration_dataloader())
    found = collect(backbone, batches, backbone.targets(), [INPUTS, GRADIENTS, LOSS_CHANGE])
    tensors = {}
    for name, statistic in found.items():
        for kind, one in [("inputs", statistic.inputs), ("gradients", statistic.gradients)]:
            for key, value in vars(one).items() if one else ():
                if key != "last_factor":  # made of the others
                    tensors[f"{name} {kind}.{key}"] = torch.as_tensor(value)
        tensors[f"{name} loss_change"] = torch.as_tensor(statistic.loss_change)
    return tensors


RECIPES = {
    "gptq": lambda: Recipe({"gptq": GPTQ(bits=4, group_size=32)}),
    "fisher": lambda: Recipe({"lowrank": LowRank(rank_ratio=0.25, weighting="fisher")}),
    "ecoflap": lambda: Recipe({"sparsegpt": SparseGPT(sparsity=0.5, allocation="ecoflap")}),
    "budget": lambda: Recipe({"int": Integer(bits=4, group_size=32)}),
}


def compressed(name: str) -> dict[str, Any]:
    """The plan, and the weights that would be stored."""
    backbone, recipe = build_clip(), RECIPES[name]()
    batches = list(tiny_data(backbone).calibration_dataloader())
    plan = None
    if name == "budget":
        plan, _ = search(recipe, Budget(ratio=4, pairs=16), backbone, batches)
    compressed = recipe.apply(backbone, batches, plan)
    compressed.finalize()
    return {"plan": compressed.plan, "weights": backbone.state_dict()}


class Step(nn.Module):
    """A training step without Lightning."""

    def __init__(self, student: Backbone, teacher: Backbone, loss: Loss) -> None:
        super().__init__()
        self.student, self.loss, self._teacher = student, loss, (teacher,)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        terms = self.loss(
            self.student,
            batch,
            teacher=self._teacher[0],
            gather=lambda rows: torch.cat(gather(rows)),
        )
        return sum(terms.values(), start=torch.zeros(()))


def gradients(student: Backbone, loss: Loss, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a batch of 8 rows; of two processes one has the first 5 and the other 3."""
    torch.manual_seed(1)
    teacher = copy.deepcopy(student).requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    step: nn.Module = Step(student, teacher, loss)
    if size() > 1:
        batch = {key: rows.split([5, 3])[rank()] for key, rows in batch.items()}
        step = DistributedDataParallel(step, find_unused_parameters=True)
    step(batch).backward()
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def of_pairs() -> dict[str, Tensor]:
    backbone = build_clip()
    batch = next(iter(tiny_data(backbone).eval_dataloader("test")))
    # 0, 1, 2, 0, … : pairs of one concept lie in both processes.
    pairs = {m: batch[m] for m in backbone.modalities} | {"concept": torch.arange(8) % 3}
    loss = Objective(contrastive=1.0, affinity=1.0, feature=1.0, interactive=1.0)
    return gradients(backbone, loss, pairs)


def of_captions() -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone = HFGenerative(LlavaForConditionalGeneration(llava_config()), build_tokenizer()).eval()
    texts = ["red cat", "blue house key", "star", "moon fish", "red", "a b c d e", "key", "boat"]
    batch = {"image": torch.randn(8, 3, 32, 32), "text": backbone.tokenize(texts)}
    return gradients(backbone, Captioning(distillation=0.5), batch)


def of_classes() -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone = MLP(hidden=[16])
    batch = {"image": torch.randn(8, 1, 28, 28), "label": torch.arange(8)}
    return gradients(backbone, CrossEntropy(distillation=0.5), batch)


TRAINED = {
    "scheduled": lambda: Recipe(
        {
            "magnitude": Magnitude(sparsity=0.5, schedule="cubic", updates=3),
            "lsq": LSQ(bits=8, group_size=32),
        }
    ),
    "upop": lambda: Recipe({"upop": UPop(pruning_ratio=0.5, updates=3)}),
}


def trained(name: str, strategy: Any) -> dict[str, Any]:
    """Weights after three steps, and what validation found."""
    pl.seed_everything(0, verbose=False)
    backbone, recipe = build_clip(), TRAINED[name]()
    dense, data = copy.deepcopy(backbone), tiny_data(backbone)
    compressed = recipe.apply(backbone, data.calibration_dataloader())
    module = CompressionModule(
        compressed,
        Objective(contrastive=1.0, affinity=1.0),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        teacher=copy.deepcopy(dense),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=size(),
        strategy=strategy,
        max_steps=3,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, TrainingData(data))
    backbone = unsharded(compressed, dense).backbone
    return {
        "weights": dict(backbone.state_dict()) if rank() == 0 else {},
        "val": float(trainer.callback_metrics["val/mean_recall"]),
        "shards": sum(p.numel() for p in module.parameters() if hasattr(p, "full_tensor")),
    }


def everything() -> dict[str, Any]:
    """By name; of training, one entry per strategy."""
    strategies: dict[str, Any] = {"alone": lambda: "auto"}
    if size() > 1:
        strategies = {
            "ddp": partial(DDPStrategy, find_unused_parameters=True, timeout=WAIT),
            "fsdp": partial(FullySharded, timeout=WAIT),
        }
    return {
        "calibrated": calibrated(),
        "compressed": {name: compressed(name) for name in RECIPES},
        "gradients": {f.__name__: f() for f in (of_pairs, of_captions, of_classes)},
        "trained": {
            name: {key: trained(name, make()) for key, make in strategies.items()}
            for name in TRAINED
        },
    }


if __name__ == "__main__":
    start_processes(
        pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, barebones=True)
    )
    torch.save(everything(), Path(sys.argv[1]) / f"{rank()}.pt")
