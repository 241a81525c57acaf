import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from mmcompress.backbones.base import Backbone
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.objectives.objective import Objective
from mmcompress.training.module import (
    CompressionModule,
    TrainingData,
    calibrated_in,
    cpu_precision,
    trained,
    warmup_cosine,
)


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


def fit(
    backbone: Backbone,
    data: PairData,
    *,
    compressed: Compressed | None = None,
    objective: Objective | None = None,
    lr: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    callbacks: list[pl.Callback] | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> CompressionModule:
    pl.seed_everything(0, verbose=False)
    teacher = copy.deepcopy(backbone) if objective and objective.needs_teacher else None
    if teacher is not None:
        with torch.no_grad():  # a teacher that has something to teach
            for parameter in teacher.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    module = CompressionModule(
        compressed or Recipe().restore(backbone, {}),
        objective or Objective(),
        optimizer=partial(optimizer, lr=lr),
        teacher=teacher,
    )
    checkpointing = any(isinstance(c, ModelCheckpoint) for c in callbacks or [])
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=checkpointing,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **({"limit_val_batches": 0} | options),
    )
    trainer.fit(module, TrainingData(data), ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.parametrize("term", ["contrastive", "affinity", "feature"])
def test_each_loss_falls(term: str, tiny_backbone: Backbone, tiny_data: PairData) -> None:
    weights = {"contrastive": 0.0, "affinity": 0.0, "feature": 0.0} | {term: 1.0}
    losses = Losses()
    fit(
        tiny_backbone,
        tiny_data,
        objective=Objective(**weights),
        callbacks=[losses],
        max_steps=30,
        max_epochs=-1,
    )
    assert len(losses.values) == 30
    assert sum(losses.values[-3:]) < 0.9 * sum(losses.values[:3])


def test_a_loss_that_is_no_number_ends_the_fit(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    with torch.no_grad():
        tiny_backbone.model.logit_scale.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 0 with learning rate 0.001"):
        fit(tiny_backbone, tiny_data, max_steps=3)


def test_no_steps_no_change(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    before = copy.deepcopy(tiny_backbone.state_dict())
    fit(tiny_backbone, tiny_data, max_steps=0)
    for key, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_validation_scores_the_val_split(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    module = fit(tiny_backbone, tiny_data, max_steps=3, limit_val_batches=1.0, max_epochs=1)
    assert 0 <= module.trainer.callback_metrics["val/mean_recall"] <= 1


def test_a_teacher_is_asked_for_and_stays_out_of_the_state(tiny_backbone: Backbone) -> None:
    dense = Recipe().restore(tiny_backbone, {})
    make = partial(CompressionModule, dense, optimizer=torch.optim.AdamW)
    with pytest.raises(ValueError, match="needs the dense model"):
        make(Objective(feature=1.0))
    module = make(Objective(feature=1.0), teacher=copy.deepcopy(tiny_backbone))
    assert len(module.state_dict()) == len(tiny_backbone.state_dict())


def checkpoint(folder: Path, every: int) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)


def test_resumed_equals_uninterrupted(
    make_tiny_backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    """Three epochs of three steps at once, and stopped after the first epoch."""

    def recipe() -> Recipe:
        return Recipe({"magnitude": Magnitude(sparsity=0.5, schedule="cubic", updates=9)})

    straight = make_tiny_backbone()
    first = recipe().apply(straight, [])
    fit(
        straight,
        tiny_data,
        compressed=first,
        max_epochs=3,
        callbacks=[checkpoint(tmp_path, 3)],
    )

    resumed = make_tiny_backbone(seed=7)
    second = recipe().restore(resumed, calibrated_in(tmp_path / "step=3.ckpt")["plan"])
    fit(
        resumed,
        tiny_data,
        compressed=second,
        max_epochs=3,
        callbacks=[checkpoint(tmp_path, 3)],
        ckpt_path=tmp_path / "step=3.ckpt",
    )

    expected = straight.state_dict()
    assert any(key.endswith(".mask") for key in expected)
    for key, tensor in resumed.state_dict().items():
        # The same batches in the same order; sums may run in another order.
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-7)


def test_checkpoints_hold_the_plan_and_plain_containers(
    tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    recipe = Recipe({"magnitude": Magnitude(sparsity=0.5)})
    compressed = recipe.apply(tiny_backbone, [])
    fit(
        tiny_backbone,
        tiny_data,
        compressed=compressed,
        max_steps=1,
        callbacks=[checkpoint(tmp_path, 1)],
    )
    assert calibrated_in(tmp_path / "step=1.ckpt") == {"plan": compressed.plan, "budget": None}


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        calibrated_in(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        calibrated_in(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="holds no compression plan"):
        calibrated_in(tmp_path / "foreign.ckpt")


def test_warmup_then_cosine() -> None:
    factors = [warmup_cosine(step, total=100, warmup_ratio=0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert warmup_cosine(0, total=10, warmup_ratio=0.0) == 1.0


def test_bf16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16, amx, expected in [
        (False, False, "32-true"),
        (True, False, "bf16-mixed"),
        (False, True, "bf16-mixed"),
    ]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda value=bf16: value)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda value=amx: value)
        assert cpu_precision() == expected


STEEP = Objective(contrastive=1e4, affinity=0, feature=0)
"""With a learning rate of 1e38, one step of finite loss ends at infinity."""


def test_what_diverges_at_its_last_step_is_not_stored(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    compressed, sgd = Recipe().restore(tiny_backbone, {}), torch.optim.SGD
    options: dict[str, Any] = {"optimizer": sgd, "lr": 1e38, "max_steps": 1}
    fit(tiny_backbone, tiny_data, compressed=compressed, objective=STEEP, **options)
    with pytest.raises(ValueError, match=r"training has diverged, .* infinite of .*: lower optim"):
        compressed.bake()


def test_a_model_trained_first_must_not_diverge(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=1,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    optimizer = partial(torch.optim.SGD, lr=1e38)
    with pytest.raises(ValueError, match="the training has diverged"):
        trained(tiny_backbone, tiny_data, STEEP, optimizer, trainer)
