"""One folder, one checkpoint: CLIP_benchmark and mmcompress give one number.

Where the definitions differ, and these tests do not: what ties with the right class or partner
counts against the model here and falls as it may there (of classes of one name, as there); equal
pictures and equal captions count as one here and apart there; blank lines of a caption file are no
captions here; and CLIP_benchmark computes in bfloat16 unless told `--no_amp`.
"""

import gc
import importlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.data.webdataset import WebDataset
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.exports.targets import export
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.words import THINGS
from tests.conftest import store
from tests.data.conftest import write_shard

cli = pytest.importorskip(
    "clip_benchmark.cli", reason='needs CLIP_benchmark: pip install "mmcompress[clip-benchmark]"'
)

zeroshot_classification = importlib.import_module("clip_benchmark.metrics.zeroshot_classification")

SHADES = ("red", "green", "blue", "yellow", "cyan", "magenta", "black", "white", "gray", "pink")
"""What the things are painted in."""

STEPS = 20
SPLITS = {"train": 40, "test": 64}


def picture(number: int) -> bytes:
    """A frame of noise around a shade; no two alike, stored without loss."""
    generator = torch.Generator().manual_seed(number)
    noise = torch.randint(0, 256, (48, 40, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    image.paste(SHADES[number % len(THINGS)], (8 + number % 3, 8, 36, 30 + number % 7))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def accuracy(logits: Tensor, target: Tensor, topk: Sequence[int]) -> list[float]:
    """Its own line for line but for the last, which NumPy 2.4 refuses: a float of an array."""
    found = logits.topk(max(topk), 1, True, True)[1].t()
    correct = found.eq(target.view(1, -1).expand_as(found))
    return [correct[:k].reshape(-1).float().sum().item() / len(target) for k in topk]


def write_folder(root: Path, beside: Callable[[int], dict[str, bytes]]) -> Path:
    """Shards in CLIP_benchmark's layout; `beside` gives the other files of an item."""
    for split, size in SPLITS.items():
        files = {}
        for number in range(size):
            stem = f"{split}{number:02}"
            files[f"{stem}.png"] = picture(number)
            files |= {f"{stem}.{suffix}": data for suffix, data in beside(number).items()}
        write_shard(root / split / "0.tar", files)
        (root / split / "nshards.txt").write_text("1")
    return root


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    def label(number: int) -> dict[str, bytes]:
        return {"cls": str(number % len(THINGS)).encode()}

    root = write_folder(tmp_path / "things", label)
    (root / "classnames.txt").write_text("\n".join(THINGS))
    (root / "zeroshot_classification_templates.txt").write_text("red {c}\nblue {c} house")
    return root


@pytest.fixture
def twice(labeled: Path) -> Path:
    """Two things go by the name of another, as "missile" and "sunglasses" do in its ImageNet."""
    names = [*THINGS]
    names[1], names[-1] = names[0], names[3]
    (labeled / "classnames.txt").write_text("\n".join(names))
    return labeled


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """One to three captions for each image, no two alike: they would tie."""

    def captions(number: int) -> dict[str, bytes]:
        thing, count = THINGS[number % len(THINGS)], number // len(THINGS)
        lines = [f"{thing} word{count} word{40 + line}" for line in range(1 + number % 3)]
        return {"txt": "\n".join(lines).encode()}

    root = write_folder(tmp_path / "captions", captions)
    (root / "dataset_type.txt").write_text("retrieval")
    return root


@pytest.fixture(params=["dense", "int4"])
def artifact(request: pytest.FixtureRequest, captioned: Path, tmp_path: Path) -> Artifact:
    """Of a model that has learnt a little: an untrained one takes all pictures for one thing."""
    backbone = FAMILIES["open_clip/vit"].build(tmp_path)
    data = WebDataset(root=str(captioned), batch_size=20)
    data.attach(backbone)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=3e-3)
    for batch in list(data.train_dataloader()) * STEPS:
        optimizer.zero_grad()
        backbone.loss(batch).backward()
        optimizer.step()
    recipe = Recipe({} if request.param == "dense" else {"int4": Integer(bits=4)})
    compressed = recipe.apply(backbone, [])
    return store(tmp_path / "artifact", compressed)


def by_mmcompress(backbone: Backbone, root: Path) -> dict[str, float]:
    data = WebDataset(root=str(root), eval_batch_size=24)
    data.attach(backbone)
    evaluators = {"zeroshot": ZeroShot(), "retrieval": Retrieval(ks=(1, 5))}
    return evaluate(backbone, data, evaluators, "test")


@pytest.fixture
def by_clip_benchmark(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, float]]:
    """Its command line on the exported checkpoint."""
    monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)
    export(artifact, "open_clip", tmp_path / "exported")
    model = f"local-dir:{tmp_path / 'exported'}"

    def run(root: Path, task: str, *options: str) -> dict[str, float]:
        out = tmp_path / f"{task}.json"
        data = ["--dataset", f"wds/{root.name}", "--dataset_root", str(root), "--task", task]
        rest = ["--no_amp", "--num_workers", "0", "--batch_size", "24", "--output", str(out)]
        command = ["eval", "--model", model, "--pretrained", "", *data, *rest, *options]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", *command])
        with warnings.catch_warnings():
            # webdataset is not told whether to shuffle, and does not close its files.
            warnings.simplefilter("ignore")
            cli.main()
            gc.collect()
        return json.loads(out.read_text())["metrics"]

    return run


def test_both_give_the_same(
    artifact: Artifact, labeled: Path, captioned: Path, by_clip_benchmark
) -> None:
    backbone = Artifact.load(artifact.folder).backbone
    ours = by_mmcompress(backbone, labeled) | by_mmcompress(backbone, captioned)
    theirs = by_clip_benchmark(labeled, "zeroshot_classification")
    theirs |= by_clip_benchmark(captioned, "zeroshot_retrieval", "--recall_k", "1", "5")
    names = {
        "zeroshot/acc@1": "acc1",
        "zeroshot/acc@5": "acc5",
        "zeroshot/balanced_acc@1": "mean_per_class_recall",
        "retrieval/i2t_r@1": "text_retrieval_recall@1",
        "retrieval/i2t_r@5": "text_retrieval_recall@5",
        "retrieval/t2i_r@1": "image_retrieval_recall@1",
        "retrieval/t2i_r@5": "image_retrieval_recall@5",
    }
    assert {theirs: ours[mine] for mine, theirs in names.items()} == pytest.approx(theirs)
    assert 0 < ours["zeroshot/acc@1"] < ours["zeroshot/acc@5"] < 1
    assert 0 < ours["retrieval/mean_recall"] < 1


def test_both_give_the_same_with_class_names_twice(
    artifact: Artifact, twice: Path, by_clip_benchmark, caplog: pytest.LogCaptureFixture
) -> None:
    """By no means the number without: a picture of either is a hit where its class is listed."""
    ours = by_mmcompress(Artifact.load(artifact.folder).backbone, twice)
    theirs = by_clip_benchmark(twice, "zeroshot_classification")
    names = {"acc1": "acc@1", "acc5": "acc@5", "mean_per_class_recall": "balanced_acc@1"}
    assert {their: ours[f"zeroshot/{mine}"] for their, mine in names.items()} == pytest.approx(
        theirs
    )
    assert f"({THINGS[0]} = {THINGS[0]}, {THINGS[3]} = {THINGS[3]})" in caplog.text
