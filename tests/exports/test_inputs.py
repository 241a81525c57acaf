"""How inputs are prepared, written down: pixels, ids and features as the backbone's own."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.processors import LibraryPixels
from mmcompress.backbones.hf.tokenizer_files import load_tokenizer
from mmcompress.backbones.hf.tokenizers import PythonTokenizer
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.exports.inputs import write_inputs
from mmcompress.inputs.pictures import Pictures
from mmcompress.inputs.sounds import Sounds
from mmcompress.inputs.texts import Texts
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.hf import untouched
from mmcompress.testing.zoo.tokenizers import siglip

REFUSED = {
    "llava": "a HFGenerative prepares its inputs by code of its own",
    "hf_vlm": "a HFVlm prepares its inputs by code of its own",
    "hf_speech": "a HFSpeech prepares its inputs by code of its own",
    "custom": "a Custom prepares its inputs by code of its own",
}
"""By the name of a family, up to the first `/`."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    """`write_inputs` compares pixels, ids and features itself; here it must not refuse any."""
    (tmp_path / "model").mkdir()
    (tmp_path / "export").mkdir()
    backbone = FAMILIES[family].build(tmp_path / "model")
    refused = REFUSED.get(family.partition("/")[0])
    if refused is not None:
        with pytest.raises(ValueError, match=refused):
            write_inputs(backbone, tmp_path / "export")
        return
    assert {*write_inputs(backbone, tmp_path / "export")} == {*backbone.modalities}


@pytest.mark.filterwarnings("ignore:This sequence already has </s>")
def test_siglips_own_tokenizer(tmp_path: Path) -> None:
    """Its class has its rules in Python, around sentencepiece; here all of them are in a file."""
    pytest.importorskip("sentencepiece")
    siglip(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), local=True)
    assert isinstance(tokenizer, PythonTokenizer)
    backbone = HF(copy.deepcopy(untouched("siglip")), tokenizer).eval()
    (tmp_path / "export").mkdir()
    settings = write_inputs(backbone, tmp_path / "export")["text"]
    prepare = Texts(settings, tmp_path / "export")
    # Case, underscores, spaces of all kinds, a piece's own sign; then what the vocabulary lacks, a
    # final sigma among it, and then a special token.
    known = ["A cat", "_", "\n ", "▁", "...", "dogs", "\u3000", "é", "on_a-PHOTO"]
    random = np.random.default_rng(0)
    for others in (["½", "ΟΔΟΣ", "İ"], ["</s>"]):
        for _ in range(200):
            text = " ".join(random.choice(known + others, size=random.integers(1, 6)))
            assert (prepare([text]) == backbone.tokenize([text]).numpy()).all(), repr(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": "CLIPImageProcessorPil"},
        {"image_processor_type": "SiglipImageProcessor"},
        {"image_processor_type": "ViTImageProcessor", "do_normalize": False},
        {"image_processor_type": "CLIPImageProcessor", "do_resize": False},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_processors_of_transformers(settings: dict) -> None:
    square = {"height": 32, "width": 32}
    clip = settings["image_processor_type"].startswith("CLIP")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": square} if clip else {"size": square}
    mean = {"image_mean": [0.1, 0.5, 0.4], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
    switches = {"do_resize": True, "do_center_crop": clip, "do_rescale": True, "do_normalize": True}
    pixels = LibraryPixels(
        {"resample": 3, "do_convert_rgb": True} | sizes | mean | switches | settings, size=32
    )
    noise = np.random.default_rng(0).integers(0, 256, (75, 50, 4), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.fromarray(noise[..., :3])):
        found = Pictures(pixels.feeding())([picture])[0]
        torch.testing.assert_close(torch.from_numpy(found), pixels(picture), rtol=0, atol=1e-5)


def test_preprocessing_without_words_is_refused(tiny_backbone: HFClip, tmp_path: Path) -> None:
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_resize": True,
        "do_center_crop": True,
        "resample": 1,
    }
    tiny_backbone._pixels = LibraryPixels(settings, size=32)
    with pytest.raises(ValueError, match=r"by resample=1.*: runtime=dense, --to hf and the artif"):
        write_inputs(tiny_backbone, tmp_path)


def test_other_pixels_are_found(tiny_backbone: HFClip, tmp_path: Path) -> None:
    """A processor that does more than its settings say is not believed."""
    inner = tiny_backbone.preprocess
    tiny_backbone.preprocess = lambda image: inner(image) + 0.01  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="its pixels of a 64 x 64 picture are not those of resize"):
        write_inputs(tiny_backbone, tmp_path)


def test_other_tokens_are_found(tiny_backbone: HFClip, tmp_path: Path) -> None:
    inner = tiny_backbone.tokenize
    tiny_backbone.tokenize = lambda texts: inner([t.upper() for t in texts])  # type: ignore[method-assign,assignment]
    with pytest.raises(ValueError, match=r"its tokens of .* are not those of tokenizer.json"):
        write_inputs(tiny_backbone, tmp_path)


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_sounds(tiny_clap: HF, tmp_path: Path, padding: str) -> None:
    assert tiny_clap._sounds is not None
    tiny_clap._sounds.extractor.padding = padding
    prepare = Sounds(tiny_clap._sounds.feeding(tmp_path), tmp_path)
    rate = tiny_clap.sampling_rate
    for length in (rate // 7, rate, 3 * rate + 1):
        wave = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
        expected = tiny_clap.preprocess_audio([torch.from_numpy(wave)])
        found = torch.from_numpy(prepare([(wave, rate)]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # decibels
