"""A backbone and data small enough for every test."""

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

# A worker per core and a thread per worker, also in the processes that tests start: threads that
# outnumber the cores wait for each other. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import open_clip
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.compressed import Compressed
from mmcompress.data.base import Classification, PairData
from mmcompress.data.items import Items, PairDataset
from mmcompress.testing.zoo.hf import build_clap, build_clip
from mmcompress.testing.zoo.words import COLORS, THINGS

collect_ignore = ["fixtures"]  # the script that made them ran with older code


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked slow or gpu, unless `-m` says what to run.

    Skipped tests are counted in the last line; those that `addopts` deselects are not under xdist.
    """
    if config.option.markexpr:
        return
    for item in items:
        for name in ("slow", "gpu"):
            if item.get_closest_marker(name):
                reason = f"{name}: run it with pytest -m {name}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _nothing_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process take no seconds to export; what is measured has tests of its own."""
    monkeypatch.setattr("mmcompress.runtime.deployment.PACKAGES", ("no_package_in_tests",))


@pytest.fixture(autouse=True)
def _own_baselines(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests must not read baselines that a user's runs have left behind."""
    own = SimpleNamespace(user_cache_path=lambda *_: tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("mmcompress.evaluation.baseline.platformdirs", own)
    monkeypatch.setattr("mmcompress.exports.cache.platformdirs", own)


def store(folder: Path, compressed: Compressed) -> Artifact:
    """Bake and save what a recipe has compressed."""
    compressed.finalize()
    return compressed.save(folder, run={"config_hash": "0", "recipe": "test"})


class TinyData(PairData):
    """Random pictures, captions of two words."""

    name = "tiny"

    def build_splits(self) -> dict[str, Items]:
        captions = [f"{color} {thing}" for thing in THINGS for color in COLORS]
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
        rows = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
        return {
            split: PairDataset(
                images=[images[i] for i in part], captions=[captions[i] for i in part]
            )
            for split, part in rows.items()
        }

    def classification(self, split: str) -> Classification:
        dataset = self.splits[split]
        labels = [COLORS.index(caption.split()[0]) for caption in dataset.captions]
        return Classification(
            name="color",
            dataset=PairDataset(images=dataset.images, captions=dataset.captions, labels=labels),
            class_names=COLORS,
            templates=("{} cat", "{} dog"),
        )


@pytest.fixture
def tiny_clap() -> HF:
    return build_clap()


@pytest.fixture
def make_tiny_backbone() -> Callable[..., HFClip]:
    return build_clip


@pytest.fixture
def tiny_backbone() -> HFClip:
    return build_clip()


@pytest.fixture
def tiny_open_clip() -> OpenClip:
    tower = {"width": 16, "layers": 2}
    config = {
        "embed_dim": 32,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 16, "head_width": 8},
        "text_cfg": tower | {"context_length": 16, "vocab_size": 49408, "heads": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
    return OpenClip(model, name="tiny", config=config)


@pytest.fixture
def tiny_data(tiny_backbone: HFClip) -> PairData:
    data = TinyData(batch_size=8, eval_batch_size=8, calibration_size=16)
    data.attach(tiny_backbone)
    return data


@pytest.fixture
def conf() -> Path:
    from mmcompress.system.locations import project_path

    return project_path("conf")


@pytest.fixture
def resident() -> Callable[[Tensor], int]:
    """How many bytes of a tensor that fills whole pages are in memory."""
    pagemap = Path("/proc/self/pagemap")
    if not os.access(pagemap, os.R_OK):
        pytest.skip("the kernel does not say which pages are in memory")

    def count(tensor: Tensor) -> int:
        assert tensor.data_ptr() % mmap.PAGESIZE == tensor.nbytes % mmap.PAGESIZE == 0
        with pagemap.open("rb", buffering=0) as file:
            file.seek(8 * tensor.data_ptr() // mmap.PAGESIZE)
            entries = file.read(8 * tensor.nbytes // mmap.PAGESIZE)
        return mmap.PAGESIZE * sum(entry >> 63 for (entry,) in struct.iter_unpack("<Q", entries))

    return count
