import json
import logging

import pytest
import torch

from mmcompress.data.items import PairDataset
from mmcompress.evaluation.baseline import _checksum, content_key, dense_baseline
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.functional.score import Score, intervals


@pytest.fixture
def evaluators():
    return {"retrieval": Retrieval(ks=[1]), "zeroshot": ZeroShot()}


def test_measured_once_then_read(confused, data, evaluators, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = dense_baseline(confused, data, evaluators, "test", cache_dir=tmp_path)
    assert first == evaluate(confused, data, evaluators, "test")
    confused.calls.clear()
    assert dense_baseline(confused, data, evaluators, "test", cache_dir=tmp_path) == first
    assert confused.calls == []
    assert caplog.messages == ["dense baseline: measured", "dense baseline: read from the cache"]


def test_intervals_are_the_same_from_the_cache(model, confused, data, evaluators, tmp_path):
    """What each item adds is kept, or the difference could not be paired."""
    compressed = evaluate(confused, data, evaluators, "test")
    measured, read = (
        intervals(dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path), compressed)
        for _ in range(2)
    )
    assert measured == read
    assert read["retrieval/mean_r@1"]["items"] == 3
    assert set(read["zeroshot/acc@1"]) == {"items", "dense", "compressed", "delta"}


class Losses:
    """Sums that are no whole numbers."""

    def __call__(self, encode, data, split):
        yield "teacher_forced/cross_entropy", Score([[[0.25, 2]], [[1.5, 3]]])


def test_sums_of_losses_are_kept_as_they_are(model, data, tmp_path):
    for _ in range(2):
        found = dense_baseline(model, data, {"losses": Losses()}, "test", cache_dir=tmp_path)
        assert found["teacher_forced/cross_entropy"] == 1.75 / 5
        assert found["teacher_forced/cross_entropy"].parts.tolist() == [[[0.25, 2]], [[1.5, 3]]]


def test_scores_that_are_another_value_are_measured_again(model, data, tmp_path, caplog):
    """As files of versions that kept whole numbers alone."""
    dense_baseline(model, data, {"losses": Losses()}, "test", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    stored = json.loads(path.read_text())
    told = {"metrics": stored["metrics"], "scores": stored["scores"]}
    told["scores"]["teacher_forced/cross_entropy"]["parts"] = [[[0, 2]], [[1, 3]]]
    path.write_text(json.dumps(stored | told | {"sha256": _checksum(stored["key"], told)}))
    found = dense_baseline(model, data, {"losses": Losses()}, "test", cache_dir=tmp_path)
    assert found["teacher_forced/cross_entropy"] == 1.75 / 5
    assert "the dense model is scored again" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        *["", "{", "[]", "\xff", "[" * 100_000],
        *['{"key": "other", "metrics": {}}', '{"metrics": {"a": 1.0}}'],
    ],
)
def test_a_file_that_cannot_be_trusted_is_measured_again(
    content, model, data, evaluators, tmp_path, caplog
):
    caplog.set_level(logging.WARNING)
    expected = dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content, encoding="latin-1")
    assert dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path) == expected
    assert caplog.messages[0].endswith(": the dense model is scored again")
    assert path.with_name(f"{path.name}.damaged").read_text(encoding="latin-1") == content
    caplog.clear()
    assert dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path) == expected
    assert caplog.messages == []


def test_one_changed_digit_is_found(model, data, evaluators, tmp_path, caplog):
    expected = dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.read_text().count('"zeroshot/acc@1": 1.0') == 1
    path.write_text(path.read_text().replace('"zeroshot/acc@1": 1.0', '"zeroshot/acc@1": 0.9'))
    assert dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path) == expected
    assert f"{path} is damaged (it is not what was written)" in caplog.text


def test_one_changed_item_is_found(model, data, evaluators, tmp_path, caplog):
    """The paired interval would be wrong, and the score would not show it."""
    expected = dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    stored = json.loads(path.read_text())
    stored["scores"]["zeroshot/acc@1"]["parts"][0] = [[0, 1]]
    path.write_text(json.dumps(stored))
    assert dense_baseline(model, data, evaluators, "test", cache_dir=tmp_path) == expected
    assert f"{path} is damaged (it is not what was written)" in caplog.text


def test_an_unwritable_cache_costs_nothing_but_the_cache(model, data, evaluators, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    metrics = dense_baseline(model, data, evaluators, "test", cache_dir=blocked / "baselines")
    assert metrics["zeroshot/acc@1"] == 1.0
    assert "not kept" in caplog.text


def test_key_is_stable_and_follows_everything_that_counts(model, confused, data, evaluators):
    keys = [content_key(model, data, evaluators, "test")]
    assert content_key(model, data, evaluators, "test") == keys[0]
    keys.append(content_key(confused, data, evaluators, "test"))
    keys.append(content_key(model, data, evaluators, "train"))
    keys.append(content_key(model, data, evaluators | {"retrieval": Retrieval(ks=[2])}, "test"))
    keys.append(content_key(model, data, {"zeroshot": ZeroShot()}, "test"))
    with torch.no_grad():
        model.model["image"].weight[0, 0] += 1e-6
    keys.append(content_key(model, data, evaluators, "test"))
    split = data.splits["test"]
    data.splits["test"] = PairDataset(images=split.images, captions=split.captions[::-1])
    keys.append(content_key(model, data, evaluators, "test"))
    split.images[0][0, 0, 0] -= 1
    keys.append(content_key(model, data, evaluators, "test"))
    assert len(set(keys)) == len(keys)


def test_measuring_and_reading_leave_the_same_random_state(tiny_backbone, tiny_data, tmp_path):
    """Or a run with a cold cache would train otherwise than the same run with a warm one."""
    states = []
    for _ in ("measured", "read"):
        torch.manual_seed(0)
        dense_baseline(tiny_backbone, tiny_data, {"r": Retrieval()}, "test", cache_dir=tmp_path)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
