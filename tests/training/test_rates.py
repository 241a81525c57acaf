"""How fast each parameter learns."""

from pathlib import Path

import pytest
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.parts import parts_of_tensors
from mmcompress.experiment import run
from mmcompress.training.rates import check_part_lr, parameter_groups, scale_rates


def test_biases_and_norms_do_not_decay(tiny_backbone: Backbone) -> None:
    matrices, others = parameter_groups(tiny_backbone)
    assert all(p.ndim > 1 for p in matrices["params"])
    assert "weight_decay" not in matrices
    assert all(p.ndim <= 1 for p in others["params"])
    assert others["weight_decay"] == 0.0
    count = len(matrices["params"]) + len(others["params"])
    assert count == len(list(tiny_backbone.parameters()))


def test_a_part_learns_at_its_share_of_the_rate(tiny_backbone: Backbone) -> None:
    groups = parameter_groups(tiny_backbone, {"vision_tower": 0.1})
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.3)
    scale_rates(optimizer.param_groups)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    names = dict(tiny_backbone.model.named_parameters())
    parts = parts_of_tensors(tiny_backbone, names)
    assert "vision_tower" in parts.values()
    assert len(set(parts.values())) > 1
    for name, parameter in names.items():
        group = found[id(parameter)]
        assert group["lr"] == pytest.approx(1e-3 if parts[name] == "vision_tower" else 1e-2)
        assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_a_part_that_the_model_lacks_is_refused(tiny_backbone: Backbone) -> None:
    check_part_lr({"vision_tower": 0.0}, tiny_backbone)
    with pytest.raises(ValueError, match="part_lr has 'audio_tower', and the parts of this model"):
        check_part_lr({"audio_tower": 0.1}, tiny_backbone)


@pytest.mark.slow
def test_a_part_of_rate_zero_stays_as_it_is(tmp_path: Path) -> None:
    """And the other part learns; what is stored shows it."""
    record = run(
        [
            "backbone=mini",
            "compression=none",
            "compression.dense_dtype=float32",
            "data.calibration_size=32",
            "data.batch_size=8",
            "trainer.max_steps=2",
            "part_lr={vision_tower: 0, projector: 0}",
            "logger=none",
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    after = Artifact.load(tmp_path / "run" / "artifact").backbone.model.state_dict()
    assert record.status == "finished"
    moved = {
        name: not torch.equal(value, after[name])
        for name, value in HFClip.mini().model.state_dict().items()
    }
    assert not any(moved[name] for name in moved if name.startswith("vision_model."))
    assert moved["text_model.encoder.layers.0.mlp.fc1.weight"]
