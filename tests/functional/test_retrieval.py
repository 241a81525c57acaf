"""Recall by hand, against a slow definition, and where other implementations go wrong."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcompress.functional.retrieval import (
    ceiling_apart,
    ranks,
    recall_at_k,
    retrieval_metrics,
)


def slow_rank(scores: list[float], positives: list[bool]) -> int:
    """Sort the candidates, wrong ones first among equals; where does the first right one stand?"""
    order = sorted(zip(scores, positives, strict=True), key=lambda item: (-item[0], item[1]))
    return [positive for _, positive in order].index(True)


def random_unit(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, columns, generator=generator), dim=1)


def test_ranks_by_hand():
    similarity = torch.tensor(
        [
            [0.9, 0.1, 0.2],  # first
            [0.8, 0.5, 0.7],  # behind two
            [0.3, 0.6, 0.4],  # behind one
        ]
    )
    assert ranks(similarity, torch.eye(3, dtype=torch.bool)).tolist() == [0, 2, 1]
    assert ranks(similarity.T, torch.eye(3, dtype=torch.bool)).tolist() == [0, 1, 1]


def test_ties_count_against_the_model():
    constant = torch.full((4, 4), 0.5)
    assert ranks(constant, torch.eye(4, dtype=torch.bool)).tolist() == [3, 3, 3, 3]
    metrics = retrieval_metrics(torch.ones(4, 1), torch.ones(4, 1), torch.arange(4), ks=(1, 3, 4))
    assert metrics["i2t_r@3"] == metrics["t2i_r@3"] == 0.0
    assert metrics["i2t_r@4"] == metrics["t2i_r@4"] == 1.0


def test_the_best_of_several_positives_counts():
    similarity = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    assert ranks(similarity, torch.tensor([[True, False, False, True]])).tolist() == [1]
    # Positives do not stand in each other's way, not even when they tie.
    tied = torch.tensor([[0.9, 0.9, 0.2]])
    assert ranks(tied, torch.tensor([[True, True, False]])).tolist() == [0]


def test_negative_similarities_are_not_dropped():
    similarity = torch.tensor([[-0.1, -0.5], [-0.9, -0.2]])
    assert ranks(similarity, torch.eye(2, dtype=torch.bool)).tolist() == [0, 0]


def test_ranks_equal_the_slow_definition():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randint(-3, 4, (50, 12), generator=generator).float()  # many ties
    positives = torch.rand(50, 12, generator=generator) < 0.2
    positives[:, 0] |= ~positives.any(dim=1)
    expected = [
        slow_rank(s, p) for s, p in zip(similarity.tolist(), positives.tolist(), strict=True)
    ]
    assert ranks(similarity, positives).tolist() == expected


def test_a_query_without_a_positive():
    with pytest.raises(ValueError, match="needs at least one positive"):
        ranks(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))


def test_recall_counts_ranks_below_k():
    rank = torch.tensor([0, 0, 1, 4, 5])
    assert [recall_at_k(rank, k) for k in (1, 2, 5, 6)] == [0.4, 0.6, 0.8, 1.0]


def test_metrics_by_hand():
    """Two images, three captions: the last two describe image 1."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    # similarity 0.6 0.0 0.8   image 0: caption 0 is second to caption 2
    #            0.8 1.0 0.6   image 1: caption 1 is first
    # captions: 0 prefers image 1, 1 image 1, 2 image 0
    metrics = retrieval_metrics(images, texts, torch.tensor([0, 1, 1]), ks=(1, 2))
    assert metrics == {
        "mean_r@1": pytest.approx((1 / 2 + 1 / 3) / 2),
        "mean_recall": pytest.approx((1 / 2 + 1 + 1 / 3 + 1) / 4),
        "i2t_r@1": 0.5,
        "i2t_r@2": 1.0,
        "t2i_r@1": pytest.approx(1 / 3),
        "t2i_r@2": 1.0,
    }


def test_the_default_is_the_mean_of_six_recalls():
    images, texts = random_unit(40, 4, 0), random_unit(40, 4, 1)
    metrics = retrieval_metrics(images, texts, torch.arange(40))
    mean_r1, mean = metrics.pop("mean_r@1"), metrics.pop("mean_recall")
    assert list(metrics) == [f"{way}_r@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    assert mean == pytest.approx(sum(metrics.values()) / 6)
    assert mean_r1 == pytest.approx((metrics["i2t_r@1"] + metrics["t2i_r@1"]) / 2)
    assert metrics["i2t_r@1"] <= metrics["i2t_r@5"] <= metrics["i2t_r@10"]


def test_metrics_do_not_depend_on_the_order():
    images = random_unit(20, 6, 0)
    image_of_text = torch.arange(20).repeat(3)  # three captions each
    texts = random_unit(60, 6, 1) + images[image_of_text]
    expected = retrieval_metrics(images, texts, image_of_text)
    generator = torch.Generator().manual_seed(2)
    shuffled = torch.randperm(60, generator=generator)
    assert retrieval_metrics(images, texts[shuffled], image_of_text[shuffled]) == expected
    order = torch.randperm(20, generator=generator)
    place = torch.empty_like(order)
    place[order] = torch.arange(20)
    assert retrieval_metrics(images[order], texts, place[image_of_text]) == expected


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    images = random_unit(50, 6, 0)
    owner = torch.arange(50).repeat_interleave(5)
    texts = random_unit(250, 6, 1) + images[owner]
    expected = retrieval_metrics(images, texts, owner)
    for size in (1, 7, 64):
        monkeypatch.setattr("mmcompress.functional.retrieval.CHUNK", size)
        assert retrieval_metrics(images, texts, owner) == expected


def test_equal_pictures_count_as_one():
    """Pictures 0 and 1 are equal; each caption of theirs finds both, and theirs are found."""
    images = torch.eye(3)[[0, 0, 1]]
    texts = torch.tensor([[0.9, 0.0, 0.4], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    owner = torch.arange(3)
    apart = retrieval_metrics(images, texts, owner, ks=(1, 2))
    # Pictures 0 and 1 both find caption 1; captions 0 and 1 tie between the two pictures.
    assert (apart["i2t_r@1"], apart["t2i_r@1"]) == pytest.approx((2 / 3, 1 / 3))
    assert apart["mean_r@1"].facts == {}
    merged = retrieval_metrics(images, texts, owner, ks=(1, 2), content=torch.tensor([7, 7, 8]))
    assert (merged["i2t_r@1"], merged["t2i_r@1"]) == (1.0, 1.0)
    assert merged["mean_r@1"].items == 2
    assert merged["mean_r@1"].facts == {"items_apart": 3, "ceiling_apart": (2 / 3 + 1 / 3) / 2}


def test_equal_pictures_take_one_place_among_the_first_k():
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]])
    texts = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    content = torch.tensor([1, 1, 2])
    metrics = retrieval_metrics(images, texts, torch.arange(3), ks=(1, 2), content=content)
    # Caption 2 is closest to the one picture that is there twice, then to its own.
    assert metrics["t2i_r@2"] == 1.0
    apart = retrieval_metrics(images, texts, torch.arange(3), ks=(1, 2))
    assert apart["t2i_r@2"] == 0.0  # its equal, or the two equal ones, come before


def test_equal_captions_count_as_one():
    images = torch.eye(2)
    texts = torch.eye(2)[[0, 0, 1]]
    owner, wording = torch.tensor([0, 1, 1]), torch.tensor([5, 5, 6])
    apart = retrieval_metrics(images, texts, owner, ks=(1,))
    assert (apart["i2t_r@1"], apart["t2i_r@1"]) == pytest.approx((1 / 2, 2 / 3))
    merged = retrieval_metrics(images, texts, owner, ks=(1,), wording=wording)
    assert (merged["i2t_r@1"], merged["t2i_r@1"]) == (1.0, 1.0)
    assert merged["mean_r@1"].items == 2


def test_without_equals_nothing_changes():
    images, texts = random_unit(30, 5, 0), random_unit(60, 5, 1)
    owner = torch.arange(30).repeat_interleave(2)
    expected = retrieval_metrics(images, texts, owner)
    ids = torch.randperm(90, generator=torch.Generator().manual_seed(2))
    found = retrieval_metrics(images, texts, owner, content=ids[:30], wording=ids[30:])
    assert found == expected
    assert found["mean_r@1"].facts == {}


def test_the_units_of_the_bootstrap_are_pictures_with_their_captions():
    images, texts = torch.eye(4), torch.eye(4)[[0, 1, 3, 2, 3]]
    owner = torch.tensor([0, 1, 1, 2, 3])
    content = torch.tensor([0, 1, 2, 2])
    score = retrieval_metrics(images, texts, owner, content=content)["mean_r@1"]
    # Of three pictures all find a caption; the caption that picture 1 shares with none looks like 3
    # and 3 is dropped for 2.
    assert score.parts[:, 0].tolist() == [[1, 1], [1, 1], [1, 1]]
    assert score.parts[:, 1, 1].tolist() == [1, 2, 2]


def best_apart(owner: list[int], content: list[int], wording: list[int]) -> float:
    """The best `mean_r@1` over all models, by trying every order of what they can tell apart."""
    items, texts = range(len(content)), range(len(owner))

    def hits(queries: Any, candidates: Any, kind: Any, seen: Any, right: Any) -> int:
        total = 0
        for value in {kind[q] for q in queries}:
            same = [q for q in queries if kind[q] == value]
            options = []
            for favorite in {seen[c] for c in candidates}:
                first = [c for c in candidates if seen[c] == favorite]
                options.append(sum(all(right(q, c) for c in first) for q in same))
            total += max(options)
        return total

    forth = hits(items, texts, content, wording, lambda i, t: owner[t] == i)
    back = hits(texts, items, wording, content, lambda t, i: owner[t] == i)
    return (forth / len(content) + back / len(owner)) / 2


def test_the_ceiling_equals_the_best_of_all_models():
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        count = int(torch.randint(1, 6, (), generator=generator))
        content = torch.randint(3, (count,), generator=generator)
        extra = torch.randint(count, (int(torch.randint(4, (), generator=generator)),))
        owner = torch.cat([torch.arange(count), extra]).sort().values
        wording = torch.randint(5, (len(owner),), generator=generator)
        expected = best_apart(owner.tolist(), content.tolist(), wording.tolist())
        assert ceiling_apart(owner, content, wording) == pytest.approx(expected)


COCO = """
import resource, time, torch
from mmcompress.functional.retrieval import retrieval_metrics
images = torch.nn.functional.normalize(torch.randn(5000, 512), dim=-1)
owner = torch.arange(5000).repeat_interleave(5)
texts = torch.nn.functional.normalize(torch.randn(25000, 512) + images[owner], dim=-1)
start = time.process_time()
metrics = retrieval_metrics(images, texts, owner)
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_the_size_of_coco():
    """5,000 images and 25,000 captions: within 30 s of one core (so that what else runs beside the
    test does not count) and 2 GiB, the libraries included."""
    printed = subprocess.check_output([sys.executable, "-c", COCO], text=True)
    seconds, gigabytes = map(float, printed.split())
    assert seconds < 30
    assert gigabytes < 2


def test_a_perfect_and_a_hopeless_model():
    eye = torch.eye(30)
    perfect = retrieval_metrics(eye, eye, torch.arange(30))
    assert set(perfect.values()) == {1.0}
    hopeless = retrieval_metrics(eye, -eye, torch.arange(30))
    assert set(hopeless.values()) == {0.0}
