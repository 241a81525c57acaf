"""Shards in CLIP_benchmark's layout."""

import logging
from pathlib import Path

import pytest
import torch

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.data.webdataset import Shards, WebDataset
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from tests.data.conftest import picture, write_shard

SHARED = Path(__file__).parents[3] / "shared" / "data"


def load(root: Path, backbone: HFClip | HF, **options) -> WebDataset:
    data = WebDataset(root=str(root), batch_size=4, eval_batch_size=4, **options)
    data.attach(backbone)
    return data


def test_items_are_read_in_place(labeled_root: Path) -> None:
    shards = Shards(sorted((labeled_root / "train").glob("*.tar")))
    assert len(shards) == 20
    assert shards.keys[:2] == ["t00", "t01"]
    item = shards[13]
    assert item["label"] == 1
    assert item["image"].getpixel((3, 3))[2] > 250
    assert not shards.captioned
    assert "text" not in item


def test_labels_alone(labeled_root: Path, tiny_backbone: HFClip) -> None:
    """Training reads prompts, evaluation class names, and retrieval has nothing to look for."""
    data = load(labeled_root, tiny_backbone, val_share=0.2)
    assert {s: len(items) for s, items in data.splits.items()} == {"test": 3, "train": 16, "val": 4}
    batches = list(data.train_dataloader())
    prompts = [f"a {color} {animal}" for color in ("red", "blue") for animal in ("cat", "dog")]
    known = {tuple(row) for row in tiny_backbone.tokenize(prompts).tolist()}
    seen = {tuple(row) for batch in batches for row in batch["text"].tolist()}
    assert len(seen) == 4
    assert seen <= known
    assert all(set(batch) == {"image", "label", "text", "concept"} for batch in batches)
    assert all(torch.equal(batch["label"], batch["concept"]) for batch in batches)
    calibration = [b["text"].tolist() for b in data.calibration_dataloader()]
    assert calibration == [b["text"].tolist() for b in data.calibration_dataloader()]
    (val,) = data.val_dataloader()
    assert {"label", "concept"} <= set(val)
    batch = next(iter(data.eval_dataloader("test")))
    assert set(batch) == {"image", "label", "content"}
    evaluators = {"zeroshot": ZeroShot(), "retrieval": Retrieval()}
    metrics = evaluate(tiny_backbone, data, evaluators, "test")
    assert set(metrics) == {"zeroshot/acc@1", "zeroshot/balanced_acc@1"}


def test_classes_of_one_name_are_one_concept(labeled_root: Path, tiny_backbone: HFClip) -> None:
    """Their prompts are equal, so none is a negative of the other in training."""
    (labeled_root / "classnames.txt").write_text("cat\ncat\n")
    data = load(labeled_root, tiny_backbone, val_share=0.2)
    batches = list(data.train_dataloader())
    assert {label for batch in batches for label in batch["label"].tolist()} == {0, 1}
    assert {concept for batch in batches for concept in batch["concept"].tolist()} == {0}


def test_zeroshot_by_hand(labeled_root: Path, tiny_backbone: HFClip) -> None:
    data = load(labeled_root, tiny_backbone)
    metrics = evaluate(tiny_backbone, data, {"zeroshot": ZeroShot()}, "test")
    with torch.no_grad():
        heads = torch.stack(
            [
                tiny_backbone.encode("text", tiny_backbone.tokenize([f"a {c} cat", f"a {c} dog"]))
                .mean(dim=0)
                .div(1)
                for c in ("red", "blue")
            ]
        )
        heads = torch.nn.functional.normalize(heads, dim=-1)
        hits = 0
        for index in range(3):
            item = data.splits["test"][index]
            pixels = tiny_backbone.preprocess(item["image"])[None]
            hits += int((tiny_backbone.encode("image", pixels) @ heads.T).argmax()) == item["label"]
    assert metrics["zeroshot/acc@1"] == pytest.approx(hits / 3)


def test_sounds_with_several_captions(
    sound_root: Path, tiny_clap: HF, caplog: pytest.LogCaptureFixture
) -> None:
    """And one that is damaged: left out, said, counted."""
    data = load(sound_root, tiny_clap, val_share=0.5, seconds=0.25)
    with caplog.at_level(logging.WARNING):
        (first, *rest) = data.eval_dataloader("test")
    assert not rest  # the fifth is the damaged one
    assert first["audio"].shape[:2] == (4, 1)
    assert first["owner"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert first["text"].shape[0] == 8
    assert any("0.tar/s/9.wav: no readable sound" in m for m in caplog.messages)
    assert caplog.messages[-1] == "sounds test: 1 items left out: no readable sound (1)"
    metrics = evaluate(tiny_clap, data, {"retrieval": Retrieval()}, "test")
    assert {"retrieval/mean_recall", "retrieval/a2t_r@1", "retrieval/t2a_r@10"} <= set(metrics)
    assert metrics["retrieval/a2t_r@10"] == 1.0
    train = next(iter(data.loader(data.splits["train"], captions="random")))
    assert len(train["text"]) == len(train["audio"]) == 2


@pytest.mark.parametrize("suffix", ["cls", "txt"])
def test_items_that_lack_what_others_have_are_left_out(
    suffix: str, tmp_path: Path, tiny_backbone: HFClip, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"a.jpg": picture(), f"a.{suffix}": b"1", "b.jpg": picture(), "c.jpg": picture()}
    write_shard(tmp_path / "train" / "0.tar", files | {f"c.{suffix}": b"0"})
    data = load(tmp_path, tiny_backbone, class_names=["red", "blue"])
    (batch,) = data.loader(Shards([tmp_path / "train" / "0.tar"]))
    assert len(batch["image"]) == 2
    assert f"0.tar/b: no .{suffix} file" in caplog.messages[0]


def test_captions_may_be_ignored(sound_root: Path, tiny_clap: HF) -> None:
    with pytest.raises(ValueError, match=r"neither captions .* nor class names"):
        load(sound_root, tiny_clap, captions=False)


def test_a_folder_of_val_is_taken(labeled_root: Path, tiny_backbone: HFClip) -> None:
    (labeled_root / "test").rename(labeled_root / "val")
    data = load(labeled_root, tiny_backbone)
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 20, "val": 3}


def test_shards_in_the_order_of_their_numbers(tmp_path: Path, tiny_backbone: HFClip) -> None:
    for number in (10, 9, 0):
        files = {f"{number}.jpg": picture(), f"{number}.txt": b"red cat"}
        write_shard(tmp_path / "train" / f"{number}.tar", files)
    data = load(tmp_path, tiny_backbone, val_share=0.01)
    keys = {"train": data.splits["train"].items.keys}
    assert keys["train"] == ["0", "9", "10"]


def test_workers_read_the_same(labeled_root: Path, tiny_backbone: HFClip) -> None:
    alone = load(labeled_root, tiny_backbone)
    beside = load(labeled_root, tiny_backbone, num_workers=1)
    for ours, theirs in zip(
        alone.eval_dataloader("test"), beside.eval_dataloader("test"), strict=True
    ):
        assert torch.equal(ours["image"], theirs["image"])


def test_bad_folders(labeled_root: Path, tmp_path: Path, tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match=r"data.root='.*nowhere' is no folder"):
        load(tmp_path / "nowhere", tiny_backbone)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no train/\*.tar"):
        load(tmp_path / "empty", tiny_backbone)
    (labeled_root / "test" / "0.tar").write_bytes(b"no tar file")
    with pytest.raises(ValueError, match=r"0.tar is no plain tar file"):
        load(labeled_root, tiny_backbone)
    write_shard(labeled_root / "test" / "0.tar", {"a.json": b"{}"})
    with pytest.raises(ValueError, match=r"0.tar holds no image and no sound"):
        load(labeled_root, tiny_backbone)


def test_class_names_that_do_not_match_the_labels(
    labeled_root: Path, tiny_backbone: HFClip
) -> None:
    message = r"item e01 of test has label 1 and there are 1 class names: make them match"
    with pytest.raises(ValueError, match=message):
        load(labeled_root, tiny_backbone, class_names=["red"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data beside the repository")
@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [("cifar10", (9000, 1000, 2500), 10), ("spoken_digits", (1620, 180, 200), 10)],
)
def test_the_development_data(
    name: str, sizes: tuple[int, int, int], classes: int, tiny_backbone: HFClip, tiny_clap: HF
) -> None:
    backbone = tiny_clap if name == "spoken_digits" else tiny_backbone
    data = load(SHARED / name, backbone)
    assert tuple(len(data.splits[split]) for split in ("train", "val", "test")) == sizes
    assert len(data.class_names) == classes
    batch = next(iter(data.eval_dataloader("test")))
    assert set(batch["label"].tolist()) <= set(range(classes))
