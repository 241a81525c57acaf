"""Loaders and batches of paired data."""

import pytest
import torch
from PIL import Image

from mmcompress.backbones.hf_clip import HFClip
from mmcompress.data.base import PairData, PairDataset


def captions_of(loader, backbone: HFClip) -> list[str]:
    ids = [row for batch in loader for row in batch["text"].tolist()]
    return [backbone.tokenizer.decode([i for i in row if i > 2]) for row in ids]


def test_a_batch(tiny_data: PairData, tiny_backbone: HFClip):
    batch = next(iter(tiny_data.test_dataloader()))
    test = tiny_data.splits["test"]
    assert set(batch) == {"image", "text"}
    assert batch["image"].shape == (8, 3, 32, 32)
    torch.testing.assert_close(batch["image"][3], tiny_backbone.preprocess(test.images[3]))
    assert torch.equal(batch["text"], tiny_backbone.tokenize(test.captions))


def test_images_of_several_sizes_and_kinds(tiny_data: PairData, tiny_backbone: HFClip):
    images = [torch.zeros(3, 40, 50, dtype=torch.uint8), Image.new("RGB", (64, 32))]
    batch = tiny_data.collate([{"image": image, "text": "red cat"} for image in images])
    assert torch.equal(batch["image"], torch.stack([tiny_backbone.preprocess(i) for i in images]))


def test_training_pairs_are_shuffled_by_the_seed(tiny_data: PairData, tiny_backbone: HFClip):
    order = captions_of(tiny_data.train_dataloader(), tiny_backbone)
    train = list(tiny_data.splits["train"].captions)
    assert order != train
    assert sorted(order) == sorted(train)
    assert captions_of(tiny_data.train_dataloader(), tiny_backbone) == order
    tiny_data.seed = 1
    assert captions_of(tiny_data.train_dataloader(), tiny_backbone) != order


def test_a_last_small_batch_is_left_out_of_training_only(tiny_data: PairData):
    tiny_data.batch_size = tiny_data.eval_batch_size = 5
    assert [len(b["text"]) for b in tiny_data.train_dataloader()] == [5] * 4
    assert [len(b["text"]) for b in tiny_data.test_dataloader()] == [5, 3]
    tiny_data.batch_size = 1000  # more than there are
    assert [len(b["text"]) for b in tiny_data.train_dataloader()] == [24]


def test_evaluation_keeps_the_order(tiny_data: PairData, tiny_backbone: HFClip):
    for split, loader in [("val", tiny_data.val_dataloader), ("test", tiny_data.test_dataloader)]:
        assert captions_of(loader(), tiny_backbone) == list(tiny_data.splits[split].captions)


def test_calibration_is_a_sample_of_train(tiny_data: PairData, tiny_backbone: HFClip):
    tiny_data.splits["train"].augment = torch.zeros_like
    sample = captions_of(tiny_data.calibration_dataloader(), tiny_backbone)
    assert len(sample) == len(set(sample)) == 16
    assert set(sample) <= set(tiny_data.splits["train"].captions)
    assert captions_of(tiny_data.calibration_dataloader(), tiny_backbone) == sample
    tiny_data.seed = 1
    assert captions_of(tiny_data.calibration_dataloader(), tiny_backbone) != sample
    batch = next(iter(tiny_data.calibration_dataloader()))
    assert batch["image"].std() > 0.5  # not augmented to black
    tiny_data.calibration_size = 1000
    assert len(captions_of(tiny_data.calibration_dataloader(), tiny_backbone)) == 24


def test_augmentation_is_applied_at_each_access():
    counter = iter(range(10))
    pairs = PairDataset(images=["a"], captions=["b"], augment=lambda image: (image, next(counter)))
    assert pairs[0] == {"image": ("a", 0), "text": "b"}
    assert pairs[0] == {"image": ("a", 1), "text": "b"}


def test_attaching_another_backbone_keeps_the_splits(tiny_data: PairData, make_tiny_backbone):
    splits, other = tiny_data.splits, make_tiny_backbone(1)
    tiny_data.attach(other)
    assert tiny_data.splits is splits
    assert tiny_data.backbone is other


def test_bad_input(tiny_data: PairData):
    with pytest.raises(ValueError, match="2 images but 1 captions: pair them up"):
        PairDataset(images=["a", "b"], captions=["c"])
    for key in ("batch_size", "eval_batch_size", "calibration_size"):
        with pytest.raises(ValueError, match=rf"data\.{key}=0 must be at least 1"):
            type(tiny_data)(**{key: 0})
