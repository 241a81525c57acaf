"""What backbones can do, and what is said of one that cannot."""

import pytest
import torch

from mmcompress.backbones.capabilities import (
    Classifier,
    Encoder,
    Generator,
    classifier,
    dual_encoder,
    encoder,
    generator,
)
from mmcompress.backbones.custom import Custom
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.generative import HFGenerative
from mmcompress.backbones.hf.sentence import HFText
from mmcompress.backbones.mlp import MLP


def test_who_can_what(tiny_backbone: HFClip) -> None:
    assert dual_encoder(tiny_backbone, "x needs", "y") is tiny_backbone
    assert encoder(tiny_backbone, "x needs", "y") is tiny_backbone
    mlp = MLP()
    assert classifier(mlp, "x needs", "y") is mlp
    assert issubclass(HFGenerative, Generator)
    assert issubclass(HFGenerative, Encoder)
    assert not issubclass(HFText, Generator | Classifier)


def test_what_is_missing_is_said(tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match=r"^x needs a generative model and HFClip is none: y$"):
        generator(tiny_backbone, "x needs", "y")
    with pytest.raises(ValueError, match=r"^x needs a classifier and HFClip is none: y$"):
        classifier(tiny_backbone, "x needs", "y")
    with pytest.raises(ValueError, match=r"^x needs pairs of two modalities and MLP has image alo"):
        dual_encoder(MLP(), "x needs", "y")


def test_one_encoder_of_your_own_may_be_a_classifier() -> None:
    own = Custom(image_encoder=torch.nn.Linear(4, 3), transform=lambda image: image)
    pixels = torch.rand(2, 4)
    found = classifier(own, "x needs", "y").class_logits(pixels)
    assert torch.equal(found, own.model.image_encoder(pixels))


def test_the_passes_of_two_towers_show_each_modality_once(tiny_backbone: HFClip) -> None:
    passes = tiny_backbone.passes()
    assert [one.name for one in passes] == ["image", "text"]
    assert tiny_backbone.pass_of("text").name == "text"
    ids = tiny_backbone.tokenize(["a red cat", "dogs"])
    batch = {"image": torch.rand(2, 3, 32, 32), "text": ids}
    for one in passes:
        assert one.timed
        assert not one.repeats
        assert torch.equal(one.run(batch), tiny_backbone.encode(one.name, batch[one.name]))
    valid = tiny_backbone.pass_of("text").valid(batch)
    assert torch.equal(valid, tiny_backbone.valid_tokens("text", ids))
