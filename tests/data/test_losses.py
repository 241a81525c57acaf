"""Items that are left out: named, counted once, and an end of the run when none is left."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcompress.backbones.examples import Waveform
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data.base import PairData
from mmcompress.data.decode import read_audio
from mmcompress.data.items import Item, Items, PairDataset, Sample
from mmcompress.data.loading import ResumableLoader
from mmcompress.data.losses import NAMED, Losses
from mmcompress.data.table import Table
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.inputs.files import Unreadable, read_image
from tests.data.conftest import picture


class Partly(PairDataset):
    """Some of whose items cannot be read."""

    bad: frozenset[int] = frozenset()

    def read(self, index: int) -> Item:
        if index in self.bad:
            raise Unreadable(f"it is torn ({index})")
        return super().read(index)


def partly(items: PairDataset, bad: set[int]) -> Partly:
    found = Partly(images=items.images, captions=items.captions)
    found.bad, found.losses, found.title = frozenset(bad), Losses(), "tiny test"
    return found


def table(folder: Path, *paths: str, root: Path | None = None) -> Table:
    lines = [f"{path},red cat {index}" for index, path in enumerate(paths)]
    file = folder / "pairs.csv"
    file.write_text("path,caption\n" + "\n".join(lines))
    return Table(files={"train": str(file), "test": str(file)}, root=str(root or folder))


def test_each_counts_once_and_the_first_are_named(caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses()
    for index in (*range(NAMED + 5), 0, 1, 2):
        losses.add("no such file", f"item {index}")
    losses.add("no caption", "a.jpg", "a.jpg, line 7, left out")
    losses.tell_names("x test")
    losses.tell_counts("x test")
    losses.tell_counts("x test")
    assert losses.counts == {"no such file": NAMED + 5, "no caption": 1}
    assert caplog.messages == [
        *(f"x test: item {index} left out, no such file" for index in range(NAMED)),
        "x test: a.jpg, line 7, left out",
        f"x test: {NAMED + 6} items left out: no such file ({NAMED + 5}), no caption (1)",
    ]


def test_the_same_item_in_a_sample_is_the_same(
    tiny_data: PairData, caplog: pytest.LogCaptureFixture
) -> None:
    """Calibration reads a part of `train`, in another order."""
    items = partly(tiny_data.splits["test"], {3, 5})
    for rows in ([5, 0], [7, 3, 5, 1]):
        list(tiny_data.loader(Sample(items, rows)))
    list(tiny_data.loader(items))
    assert items.losses is not None
    assert items.losses.counts == {"it is torn": 2}
    assert caplog.messages == [
        "tiny test: item 5 left out, it is torn (5)",
        "tiny test: 1 items left out: it is torn (1)",
        "tiny test: item 3 left out, it is torn (3)",
        "tiny test: 2 items left out: it is torn (2)",
    ]


def test_what_is_left_keeps_its_captions_and_labels(
    tiny_data: PairData, tiny_backbone: HFClip
) -> None:
    """The first of a batch is lost, a whole batch, and the last one."""
    whole = tiny_data.splits["test"]
    items = partly(whole, {0, 2, 3, 7})
    items.labels = list(range(8))
    tiny_data.class_names = [str(n) for n in range(8)]
    tiny_data.eval_batch_size = 2
    batches = list(tiny_data.loader(items))
    assert [batch["label"].tolist() for batch in batches] == [[1], [4, 5], [6]]
    assert [batch["owner"].tolist() for batch in batches] == [[0], [0, 1], [0]]
    kept = [1, 4, 5, 6]
    texts = torch.cat([batch["text"] for batch in batches])
    pixels = torch.cat([batch["image"] for batch in batches])
    assert torch.equal(texts, tiny_backbone.tokenize([whole.captions[i] for i in kept]))
    expected = torch.stack([tiny_backbone.preprocess(whole.images[i]) for i in kept])
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_sentence(workers: int, tiny_data: PairData) -> None:
    class Refusing(PairDataset):
        def read(self, index: int) -> Item:
            raise ValueError("data.x=1 is wrong: set 2")

    test = tiny_data.splits["test"]
    tiny_data.num_workers = workers
    loader = tiny_data.loader(Refusing(images=test.images, captions=test.captions))
    with pytest.raises(ValueError, match=r"^data\.x=1 is wrong: set 2$"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_without_a_class_are_refused(workers: int, tiny_data: PairData) -> None:
    tiny_data.class_names, tiny_data.num_workers = ["red", "blue"], workers
    test = tiny_data.splits["test"]
    for label in (-1, 2):
        items = PairDataset(images=test.images, captions=test.captions, labels=[0] * 7 + [label])
        message = rf"^data tiny: an item has label {label} and there are 2 class names: make them"
        with pytest.raises(ValueError, match=message):
            list(tiny_data.loader(items))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_item_that_can_be_read_is_one_sentence(
    workers: int, tmp_path: Path, tiny_backbone: HFClip
) -> None:
    data = table(tmp_path, "a.jpg", "b.jpg", "c.jpg", root=tmp_path / "elsewhere")
    data.num_workers = workers
    data.attach(tiny_backbone)
    first = "elsewhere/a.jpg: no readable image (No such file or directory)"
    said = rf"^table test: none of the 3 items can be read, the first is .*{re.escape(first)}: set "
    with pytest.raises(ValueError, match=said + r"data\.root to the folder"):
        evaluate(tiny_backbone, data, {"retrieval": Retrieval()}, "test")
    with pytest.raises(ValueError, match=said):
        list(data.eval_dataloader("test"))
    for name, loader in {
        "table val: none of the 1 items": data.val_dataloader(),
        "table train: none of the 2 items": data.calibration_dataloader(),
        "table train: none of the 2 items can": data.train_dataloader(),
    }.items():
        with pytest.raises(ValueError, match=name):
            list(loader)


def test_paths_with_backslashes(tmp_path: Path, tiny_backbone: HFClip) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.jpg").write_bytes(picture())
    data = table(tmp_path, "img\\a.jpg", "img\\b.jpg")
    data.attach(tiny_backbone)
    with pytest.raises(ValueError, match=r"write / in paths where they have \\$"):
        data.check_readable("test")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser may read everything, so the refusal is made up."""

    def refused(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("PIL.Image.open", refused)
    monkeypatch.setattr(Path, "read_bytes", refused)
    for read in (read_image, read_audio):
        with pytest.raises(Unreadable, match=r"\(Permission denied\)") as caught:
            read(tmp_path / "a.jpg")
        assert caught.value.reason == "no permission to read the file"


def test_sounds_and_pictures_that_are_no_numbers() -> None:
    class Given(Items):
        captioned = False

        def __init__(self, *items: Item) -> None:
            self.items = items

        def __len__(self) -> int:
            return len(self.items)

        def read(self, index: int) -> Item:
            return self.items[index]

    wave = np.zeros(10, dtype="float32")
    bad = wave.copy()
    bad[[2, 4]] = np.nan, np.inf
    sounds = [{"audio": Waveform(torch.from_numpy(samples), 8000)} for samples in (wave, bad)]
    gray = torch.full((3, 4, 4), 0.5)
    pictures = [{"image": gray}, {"image": gray.where(gray > 1, torch.nan)}]
    texts = [{"text": ["", " a"]}, {"text": [" ", ""]}, {"text": []}, {"text": ""}]
    items = Given(*sounds, *pictures, *texts)
    reasons = [getattr(items[index], "reason", None) for index in range(len(items))]
    sound, image = "no readable sound", "no readable image"
    assert reasons == [None, sound, None, image, None, *["no caption"] * 3]
    assert "2 of its samples are NaN or infinite" in str(items[1])


def test_what_a_run_records(tmp_path: Path, tiny_backbone: HFClip) -> None:
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "d.jpg").write_bytes(b"no image")
    data = table(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    data.attach(tiny_backbone)
    for _ in range(2):
        list(data.eval_dataloader("test"))
    left_out = {"no such file": 1, "no readable image": 1}
    assert data.summary()["test"] == {"items": 4, "left_out": left_out}
    assert data.summary()["val"] == {"items": 1, "left_out": {}}


@pytest.mark.parametrize("lost", [range(8), range(8, 16), range(16, 24), (0, 9)])
def test_a_loader_goes_on_where_it_was_past_a_batch_that_is_lost(
    lost: Sequence[int], tiny_data: PairData
) -> None:
    """24 pairs in batches of 8, in order; at the end of a pass the next one begins at its start."""
    items = partly(tiny_data.splits["train"], set(lost))

    def loader() -> ResumableLoader:
        found = tiny_data.loader(items, kind=ResumableLoader, batch_size=8)
        assert isinstance(found, ResumableLoader)
        return found

    expected = [batch["text"] for batch in loader()]
    assert len(expected) == (3 if len(lost) == 2 else 2)
    for done in range(1, len(expected)):
        cut = loader()
        batches = iter(cut)
        for _ in range(done):
            next(batches)
        again = loader()
        again.load_state_dict(cut.state_dict())
        rest = [batch["text"] for batch in again]
        assert all(torch.equal(a, b) for a, b in zip(rest, expected[done:], strict=True))
    whole = loader()
    assert len(list(whole)) == len(expected)
    assert whole.state_dict() == {"batches": 0}
