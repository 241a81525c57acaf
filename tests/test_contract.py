"""What every recipe in conf/compression promises, proved on a tiny backbone."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.compression.baking import put_back
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.steps import CutsWhenBaked
from mmcompress.data.base import PairData
from mmcompress.format.reader import read
from mmcompress.objectives.objective import Objective
from mmcompress.system.memory import dense_copy
from mmcompress.testing.contract import RECIPES, Contract, build_recipe
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.training.module import CompressionModule, TrainingData, calibrated_in

# Towers that can be selected alone, where that is not both.
TOWERS: dict[str, tuple[str, ...]] = {"cross_tower": (), "hashed_embedding": ("text",)}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return Contract(FAMILIES["hf/clip"].build(tmp_path_factory.mktemp("clip")))


def embeddings(backbone: Backbone, data: PairData) -> torch.Tensor:
    batch = next(iter(data.eval_dataloader("test")))
    with torch.no_grad():
        return torch.cat([backbone.encode(m, batch[m]) for m in backbone.modalities])


class SaveAfter(pl.Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(
    compressed: Compressed,
    teacher: Backbone,
    data: PairData,
    *,
    resume: Path | None = None,
    **options: Any,
):
    module = CompressionModule(
        compressed,
        Objective(contrastive=1.0, affinity=1.0, feature=1.0),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        teacher=teacher,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(module, TrainingData(data), ckpt_path=resume, weights_only=True)


def save(folder: Path, compressed: Compressed) -> Artifact:
    """As a run does, except that the weights which have left the model for it return."""
    encodings = compressed.bake()
    artifact = compressed.save(folder, run={"config_hash": "", "recipe": "test"})
    put_back(compressed.backbone.model, encodings)
    return artifact


@pytest.mark.parametrize("name", RECIPES)
def test_line_from_dense_to_reloaded(
    name: str,
    tiny_backbone: Backbone,
    tiny_data: PairData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Applies, trains with finite gradients everywhere, bakes exactly, reloads bit for bit.

    All that happens leaves the dense model alone, with which it shares a file.
    """
    monkeypatch.setattr("mmcompress.system.memory.LARGE", 1)
    untouched = copy.deepcopy(tiny_backbone)
    dense = dense_copy(tiny_backbone)
    recipe = build_recipe(name)
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    before = {n: p.detach().clone() for n, p in tiny_backbone.named_parameters()}
    fit(compressed, dense, tiny_data, max_steps=3)
    for key, parameter in tiny_backbone.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter).all(), key
            # Key biases have no effect on attention, and mini batches miss rare words; all else
            # must have moved.
            if not key.endswith("k_proj.bias") and not key.endswith("k_proj.u.bias"):
                assert not torch.equal(parameter, before[key]), f"no gradient reached {key}"
        else:
            assert torch.equal(parameter, before[key]), f"{key} is frozen but moved"

    compressed.on_step(1.0)
    tiny_backbone.eval()
    parametrized = embeddings(tiny_backbone, tiny_data)
    saved = save(tmp_path / "artifact", compressed)
    baked = embeddings(tiny_backbone, tiny_data)
    if any(
        isinstance(step, CutsWhenBaked) for step in recipe.steps.values()
    ):  # float32 sums without their zeros
        torch.testing.assert_close(baked, parametrized, rtol=0, atol=1e-6)
    else:
        assert torch.equal(baked, parametrized), "baking changed it"

    loaded = Artifact.load(tmp_path / "artifact")
    state = loaded.backbone.model.state_dict()
    for key, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(state[key], tensor), key
    for key, tensor in untouched.model.state_dict().items():
        assert torch.equal(dense.model.state_dict()[key], tensor), key
    assert torch.equal(embeddings(loaded.backbone, tiny_data), baked)
    assert sum(row.bytes for row in loaded.ledger()) == saved.bytes


@pytest.mark.parametrize("name", RECIPES)
def test_promises(name: str, contract: Contract, tmp_path: Path) -> None:
    """The same plan and weights again, shapes for a resumed run, fewer bytes, and the rest."""
    contract.check(name, tmp_path / "artifact")


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_left_dense_is_stored_in_float16(
    name: str, tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    """By default, in every recipe; and what is loaded is what was stored."""
    recipe = build_recipe(name, dense_dtype=None)
    assert recipe.dense_dtype == "float16"
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    saved = save(tmp_path / "artifact", compressed)
    loaded = Artifact.load(tmp_path / "artifact").backbone.model.state_dict()
    assert saved.manifest["dense_dtype"] == "float16"
    stored = {weight.name for weight in read(saved.folder) if weight.chain} | {
        *saved.manifest["aliases"]
    }
    for key, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
        if key not in stored and tensor.is_floating_point():
            assert torch.equal(tensor.half().float(), tensor), key


@pytest.mark.parametrize(
    ("name", "modality"),
    [(n, m) for n in RECIPES if n != "none" for m in TOWERS.get(n, ("image", "text"))],
)
def test_the_other_tower_is_untouched(
    name: str, modality: str, tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    dense = {k: v.clone() for k, v in tiny_backbone.model.state_dict().items()}
    selectors = [
        f"compression.steps.{step}.modality={modality}" for step in build_recipe(name).steps
    ]
    recipe = build_recipe(name, *selectors)
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    encodings = compressed.finalize()
    assert all(tiny_backbone.modality_of(key) == modality for key in encodings)
    state = tiny_backbone.model.state_dict()
    kept = [key for key in dense if tiny_backbone.modality_of(key) != modality]
    assert kept
    for key in kept:
        assert torch.equal(state[key], dense[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_resumed_within_an_epoch_equals_uninterrupted_bit_for_bit(
    name: str, make_tiny_backbone: Callable[..., Backbone], tiny_data: PairData, tmp_path: Path
) -> None:
    """Cut after the first of three steps of the second epoch, and gone on in a fresh model."""
    dense, path = make_tiny_backbone(), tmp_path / "cut.ckpt"
    straight, recipe = make_tiny_backbone(), build_recipe(name)
    first = recipe.apply(straight, tiny_data.calibration_dataloader())
    fit(first, dense, tiny_data, max_steps=8, callbacks=[SaveAfter(4, path)])

    resumed = make_tiny_backbone()
    second = recipe.restore(resumed, calibrated_in(path)["plan"])
    torch.rand(7)  # what was drawn before is of no importance
    fit(second, dense, tiny_data, max_steps=8, resume=path)

    expected, found = first.finalize(), second.finalize()
    state = resumed.model.state_dict()
    for key, tensor in straight.model.state_dict().items():
        assert torch.equal(state[key], tensor), key
    for key, encoding in expected.items():
        assert (found[key].steps, found[key].values) == (encoding.steps, encoding.values)
        for part, tensor in encoding.tensors.items():
            assert torch.equal(found[key].tensors[part], tensor), (key, part)
    assert second.structure() == first.structure()
    assert second.coverage == first.coverage


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_can_be_made_anew_from_its_arguments(name: str) -> None:
    """What a byte budget needs: every argument is stored under its own name."""
    for step in build_recipe(name).steps.values():
        again = step.varied()
        assert vars(again).keys() == vars(step).keys()
        for argument, values in step.search_space.items():
            assert getattr(step.varied(**{argument: values[0]}), argument) == values[0]
