"""Held-out items and prompts."""

import pytest

from mmcompress.data.items import PairDataset
from mmcompress.data.prompts import ENSEMBLES, templates_of
from mmcompress.data.splits import complete, hold_out, our_names


def test_held_out_by_key_alone() -> None:
    keys = [f"item{i}" for i in range(100)]
    kept, held = hold_out(keys, 0.2)
    assert sorted(kept + held) == list(range(100))
    assert len(held) == 20
    again_kept, again_held = hold_out(keys[::-1], 0.2)
    assert {keys[i] for i in held} == {keys[99 - i] for i in again_held}
    assert {keys[i] for i in kept} == {keys[99 - i] for i in again_kept}
    assert len(hold_out(keys, 0.001)[1]) == 1
    with pytest.raises(ValueError, match="1 items cannot be split"):
        hold_out(["a"])


def test_completed_splits() -> None:
    pairs = PairDataset(images=list("abcdefghij"), captions=list("abcdefghij"))
    splits = complete({"train": pairs, "test": pairs}, val_share=0.3, augment=str.upper)
    assert {split: len(items) for split, items in splits.items()} == {
        "train": 7,
        "val": 3,
        "test": 10,
    }
    shown = [splits["train"][i] for i in range(7)]
    assert all(item["image"] == item["text"].upper() for item in shown)
    assert splits["train"].plain()[0]["image"] == shown[0]["text"]
    held = [splits["val"][i] for i in range(3)]
    assert all(item["image"] == item["text"] for item in held)
    assert {i["text"] for i in shown} | {i["text"] for i in held} == set("abcdefghij")
    assert complete({"train": pairs, "val": pairs})["train"] is pairs
    with pytest.raises(ValueError, match="val_share=1 must lie between 0 and 1"):
        complete({"train": pairs}, val_share=1)


def test_templates() -> None:
    assert len(templates_of("imagenet")) == 80
    assert len(templates_of("imagenet_simple")) == 7
    assert all(t.count("{}") == 1 for name in ENSEMBLES for t in templates_of(name))
    assert templates_of(["a {}"]) == ["a {}"]
    with pytest.raises(ValueError, match=r"templates='x' is no ensemble: choose one of imag"):
        templates_of("x")
    with pytest.raises(ValueError, match=r"template 'a cat' must hold \{\} once"):
        templates_of(["a cat"])


def test_names_of_splits() -> None:
    assert our_names(["train", "dev", "validation", "testing"], "x") == {
        "train": "train",
        "validation": "val",
        "dev": "dev",
        "testing": "test",
    }
    assert our_names(["training", "val", "valid", "test", "testing", "more"], "x") == {
        "training": "train",
        **{name: name for name in ("val", "valid", "test", "testing", "more")},
    }
