"""How the inputs of exported graphs are prepared: written down, and tried before it is believed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmcompress.backbones.base import Backbone
from mmcompress.inputs.pictures import Pictures
from mmcompress.inputs.sounds import Sounds
from mmcompress.inputs.texts import Texts

TOLERANCE = 1e-5
"""Of pixels and features, which are of the size of one: they are added up in another order."""

SIZES = [(64, 64), (91, 64), (33, 80), (301, 199), (17, 5), (256, 255), (120, 480)]
"""Of the pictures that are tried: square and not, even and odd, large and small."""

TEXTS = [
    "a photo of a cat",
    "Two DOGS, that aren't the boat's",
    "café naïve ÉCOLE straße İstanbul ΣΑΣ",
    "日本語のテキスト и русский текст",
    "one 🐱 and 1,234.5 m² of ½ ﬁne ＡＢＣ",
    "don’t “quote” a&amp;b &lt;tag&gt; x_y-z",
    "  tabs\tand\nlines  ",
    "",
    "word " * 200,
    "!?#$%&'()*+,-./:;<=>@[]^_`{|}~",
    "<end_of_text> <|endoftext|> </s> [SEP] <eos>",
]
"""What tokenizers of several kinds are tried with."""


def write_inputs(backbone: Backbone, folder: Path) -> dict[str, dict[str, Any]]:
    """How inputs of each modality are prepared, as `mmcompress.inputs` takes it.

    Args:
        folder: gets the files that the settings name.
    Raises:
        ValueError: no settings can say what the backbone does; nothing else is wrong with it.
    """
    try:
        settings = backbone.feeding(folder)
        for modality in backbone.modalities:
            _TRIALS[modality](backbone, settings[modality], folder)
    except ValueError as error:
        elsewhere = f", --to {backbone.library}" if backbone.library else ""
        raise ValueError(
            f"how this model prepares its inputs cannot be exported ({error}): runtime=dense"
            f"{elsewhere} and the artifact itself work"
        ) from error
    return settings


def _try_pictures(backbone: Backbone, settings: dict[str, Any], folder: Path) -> None:
    prepare, random = Pictures(settings), np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        levels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        for picture in (_smooth(height, width), Image.fromarray(levels[..., : 3 + number % 2])):
            if picture.mode == "RGBA" and not backbone.reads_alpha:
                continue
            wanted = backbone.preprocess(picture).numpy()
            found = prepare([picture])[0]
            if wanted.shape != found.shape or not np.allclose(wanted, found, atol=TOLERANCE):
                size, steps = f"{width} x {height}", _names(settings)
                raise ValueError(f"its pixels of a {size} picture are not those of {steps}")


def _names(settings: dict[str, Any]) -> str:
    return ", ".join(step["op"] for step in settings["steps"]) or "no step at all"


def _smooth(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    levels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], -1)
    return Image.fromarray(levels.astype(np.uint8))


def _try_texts(backbone: Backbone, settings: dict[str, Any], folder: Path) -> None:
    prepare = Texts(settings, folder)
    for text in TEXTS:
        wanted, found = _ids(backbone.tokenize, text), _ids(prepare, text)
        if not np.array_equal(wanted, found):
            raise ValueError(
                f"its tokens of {text[:40]!r} are not those of {settings['tokenizer']}"
            )
    together = TEXTS[:3]
    if not np.array_equal(backbone.tokenize(together).numpy(), prepare(together)):
        raise ValueError("it pads texts of several lengths in a way of its own")


def _ids(tokenize: Callable[[list[str]], Any], text: str) -> np.ndarray:
    """(L,) of one text; none where it is refused."""
    try:
        return np.asarray(tokenize([text]))[0]
    except ValueError:
        return np.empty(0)


def _try_sounds(backbone: Backbone, settings: dict[str, Any], folder: Path) -> None:
    prepare, random = Sounds(settings, folder), np.random.default_rng(0)
    for seconds in (0.1, 0.7, 3.3, 12.1):
        length = int(seconds * backbone.sampling_rate)
        wave = random.uniform(-1, 1, length).astype(np.float32)
        wanted = backbone.preprocess_audio([torch.from_numpy(wave)]).numpy()
        found = prepare([(wave, backbone.sampling_rate)])
        if wanted.shape != found.shape or not np.allclose(wanted, found, atol=1e-3):
            raise ValueError(f"its features of {seconds} s of sound are not those of the settings")


_TRIALS: dict[str, Callable[[Backbone, dict[str, Any], Path], None]] = {
    "image": _try_pictures,
    "text": _try_texts,
    "audio": _try_sounds,
}
