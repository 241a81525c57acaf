"""A changed tower that runs only from the change on gives what the whole tower gives."""

import copy

import pytest
import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.data.base import PairData
from mmcompress.modules.anatomy import find_stacks
from mmcompress.search.proxy_loss import EmbeddingLoss
from mmcompress.search.replay import Replay

Batches = list[dict[str, Tensor]]


def stack_of(backbone: Backbone, modality: str) -> tuple[str, list[torch.nn.Module]]:
    """Path and blocks of a tower."""
    for path, stack in find_stacks(backbone.model):
        if backbone.modality_of(f"{path}.") == modality:
            return path, list(stack)
    raise AssertionError(modality)


def runs_of(backbone: Backbone) -> list[str]:
    """Which blocks have run, from now on."""
    runs: list[str] = []
    for path, stack in find_stacks(backbone.model):
        for index, block in enumerate(stack):
            # Inside the block, for a skipped one is still called.
            inner = next(block.children())
            inner.register_forward_hook(lambda *_, name=f"{path}.{index}": runs.append(name))
    return runs


def losses(dense: Backbone, batches: Batches, changed: str, modality: str) -> tuple[float, float]:
    """Of a model with one block's weights changed: run from there on, and run as a whole."""
    probe = copy.deepcopy(dense)
    with torch.no_grad():
        for weight in probe.model.get_submodule(changed).parameters():
            weight.mul_(0.7)
    proxy = EmbeddingLoss(dense, batches, 16)
    return proxy.loss(probe, modality, f"{changed}.x"), proxy.loss(probe, modality)


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_loss_is_that_of_a_whole_run(
    modality: str, index: int, tiny_backbone: HFClip, tiny_data: PairData
) -> None:
    path, _ = stack_of(tiny_backbone, modality)
    batches = list(tiny_data.calibration_dataloader())
    short, whole = losses(tiny_backbone, batches, f"{path}.{index}", modality)
    assert short == whole > 1e-4


@pytest.mark.parametrize("modality", ["image", "text"])
def test_open_clip_runs_from_the_change_on(modality: str, tiny_open_clip: OpenClip) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = tiny_open_clip.tokenize(["a red cat", "two dogs", "a key", "the moon"])
    batches = [{"image": torch.randn(4, 3, 32, 32, generator=generator), "text": texts}]
    path, _ = stack_of(tiny_open_clip, modality)
    short, whole = losses(tiny_open_clip, batches, f"{path}.1", modality)
    assert short == whole > 1e-6


def test_blocks_before_the_change_do_not_run(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    batches = list(tiny_data.calibration_dataloader())
    proxy = EmbeddingLoss(tiny_backbone, batches, len(batches[0]["image"]))
    path, _ = stack_of(tiny_backbone, "image")
    runs = runs_of(tiny_backbone)
    proxy.loss(tiny_backbone, "image", f"{path}.1.mlp")
    assert runs == [f"{path}.1"]
    proxy.loss(tiny_backbone, "image", "visual_projection")
    assert runs == [f"{path}.1", f"{path}.0", f"{path}.1"]


def test_where_all_outputs_take_too_much_some_are_kept(
    tiny_backbone: HFClip, tiny_data: PairData
) -> None:
    pixels = next(iter(tiny_data.calibration_dataloader()))["image"]
    path, blocks = stack_of(tiny_backbone, "image")
    given: list[Tensor] = []
    blocks[1].register_forward_hook(lambda module, args, output: given.append(output))
    tiny_backbone.eval()
    with torch.no_grad():
        tiny_backbone.encode("image", pixels)
        replay = Replay(held=given[0].nbytes)  # of two blocks
        with replay.recording(tiny_backbone, 0):
            tiny_backbone.encode("image", pixels)
        runs = runs_of(tiny_backbone)
        with replay.skipping(tiny_backbone, f"{path}.1.mlp", 0):
            tiny_backbone.encode("image", pixels)
        assert runs == [f"{path}.0", f"{path}.1"], "nothing is kept of the first block"
        with replay.skipping(tiny_backbone, f"{path}.2.mlp", 0):  # as of a third one
            tiny_backbone.encode("image", pixels)
        assert len(runs) == 2, "the second one's output is kept"


def test_a_block_that_stands_twice_is_run(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    layers = tiny_backbone.model.vision_model.encoder.layers
    layers[1] = layers[0]
    batches = list(tiny_data.calibration_dataloader())
    proxy = EmbeddingLoss(tiny_backbone, batches, len(batches[0]["image"]))
    path, _ = stack_of(tiny_backbone, "image")
    runs = runs_of(tiny_backbone)
    proxy.loss(tiny_backbone, "image", f"{path}.1.mlp")
    assert len(runs) == 4, "each call runs, and the hook stands in it twice"
