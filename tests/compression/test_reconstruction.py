"""Block-wise reconstruction: errors fall, nothing else moves."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.calls import Call
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.reconstruction import Reconstruction
from mmcompress.data.base import PairData

Batches = list[dict[str, torch.Tensor]]


def quantized(backbone: Backbone, bits: int = 3, **selectors: Any) -> Compressed:
    return Recipe({"int": Integer(bits=bits, **selectors)}).apply(backbone, [])


@pytest.fixture
def batches(tiny_data: PairData) -> Batches:
    return list(tiny_data.calibration_dataloader())


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("inputs", ["compressed", "dense"])
def test_the_error_of_every_block_falls(
    inputs: Any, bits: int, tiny_backbone: HFClip, batches: Batches
) -> None:
    dense = copy.deepcopy(tiny_backbone)
    compressed = quantized(tiny_backbone, bits=bits)
    errors = Reconstruction(steps=30, lr=1e-3, batch_size=8, inputs=inputs)(
        compressed, dense, batches
    )
    assert len(errors) == 4  # two towers of two blocks
    for name, (before, after) in errors.items():
        assert after < 0.9 * before, name


def test_the_embeddings_come_closer(tiny_backbone: HFClip, batches: Batches) -> None:
    dense, plain = copy.deepcopy(tiny_backbone), copy.deepcopy(tiny_backbone)
    quantized(plain)
    compressed = quantized(tiny_backbone)
    Reconstruction(steps=60, lr=1e-3, batch_size=8)(compressed, dense, batches)

    def distance(backbone: Backbone, modality: str) -> float:
        with torch.no_grad():
            pairs = [(backbone, dense)]
            return sum(
                float((a.encode(modality, x[modality]) - b.encode(modality, x[modality])).norm())
                for a, b in pairs
                for x in batches
            )

    for modality in ("image", "text"):
        assert distance(tiny_backbone, modality) < 0.9 * distance(plain, modality)


def test_nothing_outside_the_blocks_moves(tiny_backbone: HFClip, batches: Batches) -> None:
    dense = copy.deepcopy(tiny_backbone)
    compressed = quantized(tiny_backbone)
    before = {k: v.clone() for k, v in tiny_backbone.state_dict().items()}
    teacher = {k: v.clone() for k, v in dense.state_dict().items()}
    Reconstruction(steps=5, batch_size=8)(compressed, dense, batches)
    for key, tensor in tiny_backbone.state_dict().items():
        if ".layers." not in key:
            assert torch.equal(tensor, before[key]), key
    for key, tensor in dense.state_dict().items():
        assert torch.equal(tensor, teacher[key]), key
    assert all(p.grad is None for p in tiny_backbone.parameters())


def test_same_seed_same_weights(tiny_backbone: HFClip, batches: Batches) -> None:
    dense = copy.deepcopy(tiny_backbone)
    other = copy.deepcopy(tiny_backbone)
    for backbone in (tiny_backbone, other):
        compressed = quantized(backbone)
        Reconstruction(steps=5, batch_size=8, seed=3)(compressed, dense, batches)
    for mine, theirs in zip(tiny_backbone.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_block_never_gets_worse(tiny_backbone: HFClip, batches: Batches) -> None:
    dense = copy.deepcopy(tiny_backbone)
    compressed = quantized(tiny_backbone, bits=8)
    before = {k: v.clone() for k, v in tiny_backbone.state_dict().items()}
    errors = Reconstruction(steps=3, lr=10.0, batch_size=8)(compressed, dense, batches)
    for was, now in errors.values():
        assert now == was
    for key, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_a_tower_that_is_left_dense_stays_so(tiny_backbone: HFClip, batches: Batches) -> None:
    """Its blocks have no error, so no training can help them."""
    dense = copy.deepcopy(tiny_backbone)
    compressed = quantized(tiny_backbone, modality="image")
    errors = Reconstruction(steps=3, batch_size=8)(compressed, dense, batches)
    for name, (before, after) in errors.items():
        if name.startswith("text"):
            assert before == after == 0.0
    for key, tensor in dense.model.text_model.state_dict().items():
        assert torch.equal(tiny_backbone.model.text_model.state_dict()[key], tensor), key


def test_open_clip_blocks_are_called_their_own_way(tiny_open_clip: OpenClip) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = tiny_open_clip.tokenize(["a red cat", "two dogs", "a key", "the moon"])
    batches = [{"image": torch.randn(4, 3, 32, 32, generator=generator), "text": texts}]
    dense = copy.deepcopy(tiny_open_clip)
    compressed = quantized(tiny_open_clip, bits=2)
    errors = Reconstruction(steps=30, lr=1e-3, batch_size=2)(compressed, dense, batches)
    assert len(errors) == 4
    assert all(after < before for before, after in errors.values())


def test_every_item_counts_alike() -> None:
    """A chunk of 2 items, as a last batch leaves it, is drawn as rarely as it is small."""
    runs: list[int] = []

    class Counted(Call):
        def run(self, block: nn.Module) -> Tensor:
            if torch.is_grad_enabled():
                runs.append(len(self.hidden))
            return super().run(block)

    calls = [Counted(torch.randn(size, 3, 4), (), {}) for size in (18, 2)]
    outputs = [torch.randn(size, 3, 4) for size in (18, 2)]
    Reconstruction(steps=200)._fit(nn.Linear(4, 4), calls, outputs)
    assert len(runs) == 200
    assert 10 <= runs.count(2) <= 30  # of 200 draws with a chance of 0.1


def test_shared_blocks_are_refused(tiny_backbone: HFClip, batches: Batches) -> None:
    dense = copy.deepcopy(tiny_backbone)
    layers = tiny_backbone.model.text_model.encoder.layers
    layers[1] = layers[0]
    with pytest.raises(ValueError, match=r"text_model.* removed or shared some: set reconstruct"):
        Reconstruction(steps=1)(Recipe().restore(tiny_backbone, {}), dense, batches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "steps=0 must be above 0"), ({"inputs": "both"}, "inputs='both' must be")],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reconstruction(**arguments)
