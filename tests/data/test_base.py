"""Loaders and batches of paired data."""

from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from mmcompress.backbones.examples import Waveform
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.data.items import PairDataset
from mmcompress.inputs.files import Unreadable
from mmcompress.objectives.objective import Objective
from mmcompress.training.module import CompressionModule, TrainingData, calibrated_in


def captions_of(loader, backbone: HFClip) -> list[str]:
    ids = [row for batch in loader for row in batch["text"].tolist()]
    return [backbone.tokenizer.decode([i for i in row if i > 2]) for row in ids]


def test_a_batch(tiny_data: PairData, tiny_backbone: HFClip):
    batch = next(iter(tiny_data.eval_dataloader("test")))
    test = tiny_data.splits["test"]
    assert set(batch) == {"image", "content", "text", "owner", "wording"}
    assert batch["owner"].tolist() == list(range(8))
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


def test_every_epoch_has_an_order_of_its_own(tiny_data: PairData, tiny_backbone: HFClip):
    loader = tiny_data.train_dataloader()
    orders = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        orders.append(captions_of(loader, tiny_backbone))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    again = tiny_data.train_dataloader()
    again.sampler.set_epoch(1)
    assert captions_of(again, tiny_backbone) == orders[1]


def test_a_loader_goes_on_where_it_was(tiny_data: PairData):
    """24 pairs in batches of 8."""
    expected = [batch["text"] for batch in tiny_data.train_dataloader()]
    for done in range(4):
        loader = tiny_data.train_dataloader()
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        resumed = tiny_data.train_dataloader()
        resumed.load_state_dict(loader.state_dict())
        rest = [batch["text"] for batch in resumed]
        wanted = expected[done % 3 :]  # after the last one a new epoch begins
        assert len(rest) == len(wanted)
        assert all(torch.equal(a, b) for a, b in zip(rest, wanted, strict=True))
        assert len(list(resumed)) == 3  # skipped once only


class SaveAfter(pl.Callback):
    """As a checkpoint callback does, at the end of a batch."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_resumed_fit_equals_an_uninterrupted_one(
    step: int, make_tiny_backbone, tiny_data: PairData, tmp_path: Path
):
    """Three epochs of three steps, cut within an epoch, at its end, and in the next."""

    def fit(seed: int, resume: Path | None = None) -> dict[str, torch.Tensor]:
        backbone = make_tiny_backbone(seed)
        recipe = Recipe({"magnitude": Magnitude(sparsity=0.5, schedule="cubic", updates=4)})
        if resume:
            compressed = recipe.restore(backbone, calibrated_in(resume)["plan"])
        else:
            compressed = recipe.apply(backbone, [])
        module = CompressionModule(
            compressed,
            Objective(),
            optimizer=partial(torch.optim.AdamW, lr=1e-3),
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[] if resume else [SaveAfter(step, tmp_path / "cut.ckpt")],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            max_steps=9,
        )
        trainer.fit(module, TrainingData(tiny_data), ckpt_path=resume, weights_only=True)
        assert trainer.global_step == 9
        return module.state_dict()

    expected = fit(0)
    # Another start: everything must come from the checkpoint.
    found = fit(1, tmp_path / "cut.ckpt")
    assert sum(name.endswith(".mask") for name in expected) == 28  # all targets but positions
    for name, tensor in expected.items():
        # The same operations on the same numbers; a thread more or less may round otherwise.
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_a_last_small_batch_is_left_out_of_training_only(tiny_data: PairData):
    tiny_data.batch_size = tiny_data.eval_batch_size = 5
    assert [len(b["text"]) for b in tiny_data.train_dataloader()] == [5] * 4
    assert [len(b["text"]) for b in tiny_data.eval_dataloader("test")] == [5, 3]
    tiny_data.batch_size = 1000  # more than there are
    assert [len(b["text"]) for b in tiny_data.train_dataloader()] == [24]


def test_evaluation_keeps_the_order(tiny_data: PairData, tiny_backbone: HFClip):
    for split, loader in [
        ("val", tiny_data.val_dataloader()),
        ("val", tiny_data.eval_dataloader("val")),
        ("test", tiny_data.eval_dataloader("test")),
    ]:
        assert captions_of(loader, tiny_backbone) == list(tiny_data.splits[split].captions)


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


def test_all_captions_or_one_of_them(tiny_data: PairData, tiny_backbone: HFClip):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    texts = [["red cat", "red dog", "red key"], "blue star"]
    items = [{"image": image, "text": text} for text in texts]
    every = tiny_data.collate(items)
    assert every["owner"].tolist() == [0, 0, 0, 1]
    assert torch.equal(every["text"], tiny_backbone.tokenize([*texts[0], texts[1]]))
    first = tiny_data.collate(items, captions="first")
    assert torch.equal(first["text"], tiny_backbone.tokenize(["red cat", "blue star"]))
    drawn = [tiny_data.collate(items, captions="random")["text"][0].tolist() for _ in range(50)]
    assert {tuple(row) for row in drawn} == {tuple(row) for row in every["text"][:3].tolist()}


def test_damaged_items_are_left_out_and_counted(tiny_data: PairData, caplog):
    class Damaged(PairDataset):
        def read(self, index: int) -> dict:
            if index in (0, 1, 5):
                raise Unreadable("it is torn")
            return super().read(index)

    test = tiny_data.splits["test"]
    damaged = Damaged(images=test.images, captions=test.captions)
    damaged.title = "tiny test"
    tiny_data.eval_batch_size = 2
    sizes = [len(batch["image"]) for batch in tiny_data.loader(damaged)]
    assert sizes == [2, 1, 2]  # the first two items were a whole batch
    assert caplog.messages == [
        *(f"tiny test: item {i} left out, it is torn" for i in (0, 1, 5)),
        "tiny test: 3 items left out: it is torn (3)",
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_items_are_named_once(workers, make_tiny_backbone, tiny_data: PairData, caplog):
    class Damaged(PairDataset):
        def read(self, index: int) -> dict:
            if index == 3:
                raise Unreadable("it is torn")
            return super().read(index)

    class Torn(type(tiny_data)):
        def build_splits(self):
            splits = super().build_splits()
            test = splits["test"]
            return splits | {"test": Damaged(images=test.images, captions=test.captions)}

    data = Torn(num_workers=workers)
    data.attach(make_tiny_backbone())
    for _ in range(2):
        assert [len(batch["image"]) for batch in data.eval_dataloader("test")] == [7]
    assert caplog.messages == [
        "tiny test: item 3 left out, it is torn",
        "tiny test: 1 items left out: it is torn (1)",
    ]


def test_an_empty_split_is_refused(make_tiny_backbone, tiny_data: PairData):
    class Empty(type(tiny_data)):
        def build_splits(self):
            return super().build_splits() | {"val": PairDataset(images=[], captions=[])}

    with pytest.raises(ValueError, match="data tiny: split val is empty"):
        Empty().attach(make_tiny_backbone())


def test_bad_input(tiny_data: PairData):
    with pytest.raises(ValueError, match="2 images but 1 captions: pair them up"):
        PairDataset(images=["a", "b"], captions=["c"])
    for key in ("batch_size", "eval_batch_size", "calibration_size"):
        with pytest.raises(ValueError, match=rf"data\.{key}=0 must be at least 1"):
            type(tiny_data)(**{key: 0})
    with pytest.raises(ValueError, match=r"data\.seconds=0 must be positive"):
        type(tiny_data)(seconds=0)


def test_a_long_sound_is_the_same_at_every_evaluation(tiny_data: PairData, tiny_clap: HF) -> None:
    """Its middle, in whatever batch; in training another second each time, as the seed says."""
    t = torch.arange(40_000) / 8000
    long = Waveform(0.5 * torch.sin(2 * torch.pi * (200 + 150 * t) * t), 8000)
    short = Waveform(long.samples[:3000], 8000)
    tiny_data.backbone = tiny_clap
    items = [{"audio": wave, "text": "red cat"} for wave in (long, short)]
    middle = Waveform(long.samples[16_000:24_000], 8000)
    expected = tiny_clap.preprocess_audio([middle.samples, short.samples])
    for captions in ("all", "first"):
        assert torch.equal(tiny_data.collate(items, captions=captions)["audio"], expected)
    assert torch.equal(tiny_data.collate(items[:1])["audio"], expected[:1])
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(tiny_data.collate(items, captions="random")["audio"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert torch.equal(drawn[0][1], expected[1])
