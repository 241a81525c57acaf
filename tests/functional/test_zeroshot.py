import pytest
import torch

from mmcompress.functional.zeroshot import (
    balanced_accuracy,
    class_heads,
    zeroshot_accuracy,
    zeroshot_hits,
    zeroshot_ranks,
)


def test_heads_are_the_normalized_mean_of_the_prompts():
    prompts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [1.0, 0.0]])
    torch.testing.assert_close(class_heads(prompts), expected)


def test_accuracy_by_hand():
    heads = torch.eye(3)
    images = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.0, 0.4, 0.6]])
    labels = torch.tensor([0, 1, 1, 2])
    assert (zeroshot_ranks(images, heads, labels) == 0).tolist() == [True, True, False, True]
    assert zeroshot_accuracy(images, heads, labels) == 0.75


def test_a_model_that_scores_all_classes_alike_gets_nothing_right():
    images, heads = torch.ones(4, 2), torch.ones(3, 2)
    assert zeroshot_accuracy(images, heads, torch.tensor([0, 1, 2, 0])) == 0.0


def test_accuracy_matches_argmax_without_ties():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(50, 8, generator=generator)
    heads = torch.randn(5, 8, generator=generator)
    labels = torch.randint(5, (50,), generator=generator)
    right = sum(
        max(range(5), key=lambda c: float(image @ heads[c])) == label
        for image, label in zip(images, labels.tolist(), strict=True)
    )
    assert zeroshot_accuracy(images, heads, labels) == right / 50


def test_of_classes_with_one_name_the_listed_one_is_hit():
    """As in CLIP_benchmark: argmax, so the second class of a name is never found."""
    heads = torch.eye(3)[[0, 1, 1, 2]]  # the middle two have one name
    images = torch.eye(3)[[0, 1, 1, 2]]
    same = torch.tensor([10, 11, 11, 12])
    listed, largest = zeroshot_hits(images, heads, torch.arange(4), same)
    assert listed.shape == (4, 1)
    assert listed[[0, 3], 0].tolist() == [True, True]
    assert listed[1:3].sum() == 1  # the same logits: topk lists one of the two for both images
    assert largest.tolist() == [True, True, False, True]
    # Under different names they are a tie that the model could have avoided.
    listed, largest = zeroshot_hits(images, heads, torch.arange(4))
    assert listed[:, 0].tolist() == largest.tolist() == [True, False, False, True]


def test_equal_names_take_places_among_the_five():
    heads = torch.cat([torch.eye(6)[[0] * 5], torch.eye(6)[1:]])  # five classes of one name
    images = torch.tensor([[0.9, 0.4, 0.1, 0.0, 0.0, 0.0]])
    same = torch.tensor([0] * 5 + [1, 2, 3, 4, 5])
    for label, places in ((5, [False] * 5), (6, [False] * 5)):
        listed, _ = zeroshot_hits(images, heads, torch.tensor([label]), same)
        assert listed[0].tolist() == places
    found = [zeroshot_hits(images, heads, torch.tensor([c]), same)[0][0, 4] for c in range(5)]
    assert all(found)


@pytest.mark.parametrize("classes", [3, 5, 40])
def test_hits_are_ranks_without_equal_names(classes: int):
    generator = torch.Generator().manual_seed(classes)
    images, heads = (torch.randn(n, 8, generator=generator) for n in (60, classes))
    labels = torch.randint(classes, (60,), generator=generator)
    rank = zeroshot_ranks(images, heads, labels)
    listed, largest = zeroshot_hits(images, heads, labels)
    expected = rank[:, None] < torch.arange(1, listed.shape[1] + 1)
    assert torch.equal(listed, expected)
    assert torch.equal(largest, rank == 0)


def test_a_constant_model_hits_nothing():
    listed, largest = zeroshot_hits(torch.ones(4, 2), torch.ones(6, 2), torch.tensor([0, 1, 2, 0]))
    assert not listed.any()
    assert not largest.any()


def test_balanced_accuracy_weighs_classes_not_images():
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 4, 4])
    hits = torch.tensor([True] * 6 + [True, False])
    assert balanced_accuracy(hits, labels) == pytest.approx(0.75, abs=1e-12)
