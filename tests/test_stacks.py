"""Which methods go together, proved on a tiny backbone: legal stacks work, others say why not."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.utils import parametrize

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import KINDS, MaskStep, Step, ValueStep
from mmcompress.data.base import PairData
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.system.locations import project_path

CONF = project_path("conf").resolve()

# The layers are 32 wide and get narrower: settings that fit whatever earlier steps leave.
TINY = {
    "group_size": None,
    "clusters": 16,
    "block_size": 1,
    "pruning_ratio": 0.5,
}


def load_steps() -> dict[str, Step]:
    """The methods: recipes of one step, of the file's name."""
    found = {}
    for path in sorted((CONF / "compression").glob("*.yaml")):
        steps = OmegaConf.load(path).get("steps", {})
        if list(steps) == [path.stem]:
            found[path.stem] = instantiate(steps[path.stem])
    return found


STEPS = load_steps()
LEARNED_MASKS = ("movement", "upop")
FIRST = ("blocks", "heads", "neurons", "upop")
"""What removes structures comes before what rewrites or masks the layers that are left."""

LAST = ("activations", "qwt")
MOST_USED = ("magnitude", "int4")
"""A mask and a grid."""

ADDING = ("activations", "qwt")
"""Methods that make nothing smaller by themselves."""

ILLEGAL = {
    frozenset({"blocks", "cross_layer"}): "no group of its 1 blocks",  # the tiny towers have two
    frozenset({"blocks", "qwt"}): "needs a block of its own for each dense block",
    frozenset({"cross_layer", "qwt"}): "needs a block of its own for each dense block",
    frozenset({"cross_tower", "upop"}): "shares a layer",
    frozenset({"activations", "upop"}): "this model has none",
}
"""Reasons of their own; what follows from the stages is in `reason_against`."""

LARGER = (
    ("neurons", "heads", "lowrank", "int8"),
    ("lowrank", "magnitude", "int4"),
    ("neurons", "wanda", "gptq"),
    ("heads", "activations", "int8"),
    ("cross_layer", "sparsegpt", "int4"),
    ("qwt", "magnitude", "int4"),
    ("lowrank", "activations", "gptq"),
    ("blocks", "lowrank", "binary"),
    ("hashed_embedding", "lowrank", "entropy"),
    ("lowrank", "movement", "lsq"),
    ("heads", "neurons", "magnitude", "cluster"),
    ("cross_tower", "lowrank", "float8"),
)


def reason_against(names: Sequence[str]) -> str | None:
    """What the error of an illegal stack says; None for a legal one."""
    steps = list(stacked(names).steps.values())
    values = [step for step in steps if isinstance(step, ValueStep)]
    if len(values) > 1:
        return "both store the values of"
    masked = any(isinstance(step, MaskStep) for step in steps)
    if masked and any(not step.keeps_zeros for step in values):
        return "cannot keep the zeros|no gradient reaches the mask"
    if any(not step.trains_weight for step in values) and set(names) & set(LEARNED_MASKS):
        return "no gradient reaches the mask"
    return ILLEGAL.get(frozenset(names))


def stacked(names: Sequence[str]) -> Recipe:
    """Fresh steps in their order, with settings for tiny layers."""

    def place(name: str) -> tuple[int, int]:
        kind = next(i for i, kind in enumerate(KINDS) if isinstance(STEPS[name], kind))
        return kind, (name in LAST) - (name in FIRST)

    steps = {}
    for name in sorted(names, key=place):
        step = STEPS[name]
        fitting = {key: value for key, value in TINY.items() if hasattr(step, key)}
        steps[name] = step.varied(**fitting)
    return Recipe(steps, dense_dtype="float32")  # outputs are compared before and after


def embed(backbone: HFClip, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad(), parametrize.cached():
        return torch.cat([backbone.encode(m, batch[m]) for m in backbone.modalities])


def train_one_step(compressed: Compressed, batch: dict[str, Tensor]) -> None:
    backbone = compressed.backbone
    trained = [p for p in backbone.parameters() if p.requires_grad]
    compressed.on_step(0.0)
    with parametrize.cached():
        first, second = (backbone.encode(m, batch[m]) for m in backbone.modalities)
        loss = contrastive_loss(first, second, backbone.logit_scale) + compressed.penalty()
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                assert gradient.isfinite().all()
                parameter -= 1e-3 * gradient
    compressed.on_step(1.0)


def prove(names: Sequence[str], backbone: HFClip, data: PairData, folder: Path) -> None:
    """Apply, train a step, bake, save, load: the stored model is the trained one, and smaller."""
    dense, batches = copy.deepcopy(backbone), list(data.calibration_dataloader())
    compressed = stacked(names).apply(backbone, batches)
    train_one_step(compressed, batches[0])
    trained = embed(backbone, batches[0])
    compressed.finalize()
    artifact = compressed.save(
        folder / "artifact", run={"config_hash": "", "recipe": "+".join(names)}
    )
    loaded = Artifact.load(folder / "artifact").backbone
    # Removing what training has emptied adds up in another order.
    torch.testing.assert_close(embed(backbone, batches[0]), trained, rtol=1e-4, atol=1e-5)
    assert torch.equal(embed(loaded, batches[0]), embed(backbone, batches[0]))
    rows = artifact.ledger()
    assert sum(row.bytes for row in rows) == artifact.bytes
    weights = sum(row.bytes for row in rows if row.payload not in ("header", "manifest"))
    if not set(names) & set(ADDING):
        assert weights < sum(p.nbytes for p in dense.parameters())


def every_pair() -> Iterator[ParameterSet]:
    """All; those without one of `MOST_USED` are slow, for they are many."""
    for names in itertools.combinations(STEPS, 2):
        marks = [] if set(names) & set(MOST_USED) else [pytest.mark.slow]
        yield pytest.param(names, id="+".join(names), marks=marks)


@pytest.mark.parametrize("names", list(every_pair()))
def test_every_pair_works_or_says_why_not(
    names: tuple[str, str], tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path
) -> None:
    reason = reason_against(names)
    if reason is None:
        prove(names, tiny_backbone, tiny_data, tmp_path)
        return
    with pytest.raises(ValueError, match=reason) as caught:
        stacked(names).apply(tiny_backbone, tiny_data.calibration_dataloader())
    assert any(name in str(caught.value) for name in names)


@pytest.mark.parametrize("names", LARGER, ids="+".join)
def test_larger_stacks(
    names: tuple[str, ...], tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path
) -> None:
    prove(names, tiny_backbone, tiny_data, tmp_path)


def test_most_pairs_are_legal() -> None:
    """A table of exceptions that grows is a design that shrinks."""
    pairs = list(itertools.combinations(STEPS, 2))
    stored = [p for p in pairs if all(isinstance(STEPS[name], ValueStep) for name in p)]
    refused = [p for p in pairs if reason_against(p) is not None and p not in stored]
    assert len(refused) < 0.1 * len(pairs)
