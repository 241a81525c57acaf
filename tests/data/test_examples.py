"""What a generative model is asked of the items of a data set."""

import pytest
import torch
from PIL import Image

from mmcompress.backbones.examples import Example, Waveform
from mmcompress.backbones.hf.generative import HFGenerative
from mmcompress.data.examples import EXAMPLES, example_of
from mmcompress.data.pairs import GivenPairs
from mmcompress.testing.zoo.hf import untouched_llava
from mmcompress.testing.zoo.words import build_tokenizer


@pytest.fixture
def llava() -> HFGenerative:
    return HFGenerative(untouched_llava(), build_tokenizer()).eval()


def test_a_prompt_is_a_conversation_of_one_turn() -> None:
    assert Example("how many?").turns == (("user", "how many?"),)
    turns = (("user", "a cat?"), ("assistant", "yes"), ("user", "red?"))
    assert Example(turns).turns == turns


def test_pictures_become_rgb_on_white() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    gray = torch.zeros(1, 2, 2, dtype=torch.uint8)
    found = example_of({"image": [clear, gray], "prompt": "which?"}, ["left", "first"])
    assert [image.mode for image in found.images] == ["RGB", "RGB"]
    assert [image.getpixel((0, 0)) for image in found.images] == [(255, 255, 255), (0, 0, 0)]
    assert (found.prompt, found.answers) == ("which?", ("left", "first"))
    sound = Waveform(torch.zeros(4), 8000)
    assert example_of({}, [], sound) == Example(sound=sound)


def test_without_an_answer_there_is_nothing_to_learn() -> None:
    with pytest.raises(
        ValueError, match=r"^the example 'how many\?' has no answer to learn .*: give"
    ):
        _ = Example("how many?").first_answer


def test_data_hand_out_examples_with_all_answers(llava: HFGenerative) -> None:
    image = Image.new("RGB", (8, 8), "red")
    data = GivenPairs({"test": [(image, ["red cat", "red fish"]), (image, "red dog")]})
    data.attach(llava)
    (batch,) = data.example_dataloader("test")
    assert [example.answers for example in batch[EXAMPLES]] == [
        ("red cat", "red fish"),
        ("red dog",),
    ]
    prepared = llava.prepare(batch[EXAMPLES])
    assert torch.equal(prepared["text"], llava.tokenize(["red cat", "red dog"]))
    assert torch.equal(prepared["image"][0], llava.preprocess(image))
    assert llava.generate(batch[EXAMPLES], max_tokens=4) == llava.caption(
        prepared["image"], max_tokens=4
    )


def test_a_captioner_takes_no_questions(llava: HFGenerative) -> None:
    image = Image.new("RGB", (8, 8), "red")
    with pytest.raises(ValueError, match="asked something else: choose backbone=hf_vlm"):
        llava.prepare([Example("how many?", images=(image,))])
