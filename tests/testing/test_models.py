"""`check_backbone` finds each broken promise, and says which it is."""

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.custom import Custom
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.testing import check_backbone
from mmcompress.testing.holding import contract
from mmcompress.testing.zoo.own import Bag, Pictures, hash_words


def pictures(images: Tensor) -> Tensor:
    return nn.functional.interpolate(images.float() / 255, (32, 32))


def build(kind: type[Custom] = Custom, **settings: Any) -> Custom:
    given: dict[str, Any] = {
        "image_encoder": Pictures(),
        "text_encoder": Bag(),
        "transform": pictures,
        "tokenizer": hash_words,
        "pad_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**given | settings).eval()


class Wide(Pictures):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(128, 48)


class Noisy(Pictures):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) + torch.rand(len(pixels), 1)


class Mixed(Pictures):
    """Normalizes over the batch."""

    def forward(self, pixels: Tensor) -> Tensor:
        rows = super().forward(pixels)
        return rows - rows.mean(dim=0)


class Grid(Pictures):
    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


class Bare(Pictures):
    """Most of its parameters belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(128, 4096))

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) + self.table.mean()


class NoTower(Custom):
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [(r"image_encoder\.", "image")]


class Unknown(Custom):
    adapter = "mine"


class Flat(Custom):
    @property
    def logit_scale(self) -> Tensor:
        return torch.ones(1)


class NoText(Custom):
    @property
    def spec(self) -> dict[str, Any]:
        return {"modalities": {"image"}}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: build(image_encoder=Wide()), "all modalities are embedded in one space (widths"),
        (lambda: build(image_encoder=Noisy()), "encode_image gives the same again in evaluation"),
        (lambda: build(image_encoder=Mixed()), "an embedding of image does not depend on the rest"),
        (lambda: build(image_encoder=Grid()), "encode_image gives one finite row (D,) for each i"),
        (lambda: build(image_encoder=Bare()), "at least 95% of the parameters are targets ("),
        (lambda: build(NoTower), "each tower has targets (none in text: see tower_prefixes)"),
        (lambda: build(Unknown), "`adapter` is `custom`, or names a class that artifacts may name"),
        (lambda: build(Flat), "logit_scale is a positive scalar (its shape is (1,))"),
        (lambda: build(NoText), "spec is JSON ("),
    ],
)
def test_a_broken_promise_is_named(make: Callable[[], Custom], sentence: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(f"broken promise: {sentence}")) as caught:
        check_backbone(make())
    assert "\n" not in str(caught.value)


def test_what_is_no_target_is_named_with_the_largest_first() -> None:
    with pytest.raises(
        AssertionError, match=r"name the others in `roles`: image_encoder\.table: matr"
    ):
        check_backbone(build(image_encoder=Bare()))


@pytest.mark.parametrize("family", ["hf/clip", "hf/clap", "hf_text/bert", "custom"])
def test_ours_keep_them(family: str) -> None:
    assert check_backbone(contract(family).dense, recipes=["int8"]) == {"int8": ""}


def test_a_refusal_is_given_back_and_the_model_stays_as_it_is(tiny_backbone: HFClip) -> None:
    before = {key: tensor.clone() for key, tensor in tiny_backbone.state_dict().items()}
    tiny_backbone.train()
    assert check_backbone(tiny_backbone, recipes=["magnitude"]) == {"magnitude": ""}
    assert tiny_backbone.training
    assert all(torch.equal(t, before[key]) for key, t in tiny_backbone.state_dict().items())
    assert check_backbone(build(), recipes=["heads"])["heads"].startswith("compression.steps.heads")
