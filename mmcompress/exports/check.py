"""What another library loads from an export, against the artifact: `mmcompress export --test`."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import Encoder, encoder
from mmcompress.exports.rounding import Ranges, rounded_inputs
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.system.programs import run_program

ITEMS = 32
"""Of each modality."""

LARGEST = 1e-4
"""Difference of a value of two L2-normalized embeddings of the same weights: sums in another
order."""

LEAST_COSINE = 0.999
"""Mean over items, where activations are rounded: a value at the edge of a level may fall on
either side."""

READERS = Path(__file__).parents[1] / "readers"

WORDS = ("red", "green", "blue", "black", "cat", "dog", "house", "tree", "boat", "moon")


@dataclass(frozen=True)
class Difference:
    """How far two models' embeddings of the same items are from each other.

    Attributes:
        largest: modality → largest difference of a value.
        cosine: modality → mean cosine similarity.
    """

    largest: dict[str, float]
    cosine: dict[str, float]

    def __str__(self) -> str:
        parts = [
            f"{modality} {value:.1e} (mean cosine {self.cosine[modality]:.5f})"
            for modality, value in self.largest.items()
        ]
        return f"largest difference of {ITEMS} embeddings: {', '.join(parts)}"


def compare(
    artifact: Artifact,
    folder: Path,
    reader: str,
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
) -> Difference:
    """Embed the same items by the artifact here and by the export in a process of its own.

    Args:
        artifact: of `Artifact.load`.
        folder: of the export.
        reader: name of a program in `readers/`, which imports the other library.
        activations: where the export rounds what the artifact does not; what is compared with
            then rounds too.
        ranges: of `input_ranges`, where it rounds between these.
    Raises:
        ValueError: the model gives no embeddings, the other library cannot load the folder, or its
            embeddings differ by more than `LARGEST`; where linear layers round what they read,
            their mean cosine is below `LEAST_COSINE`.
    """
    model = encoder(artifact.backbone, "--test compares", "export it without --test")
    with tempfile.TemporaryDirectory() as place:
        items = Path(place)
        inputs = write_items(model, items)
        found = _read(reader, folder, items)
    return check_found(model, inputs, found, activations=activations, ranges=ranges)


def check_found(
    model: Encoder,
    inputs: Mapping[str, Tensor],
    found: Mapping[str, np.ndarray],
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
) -> Difference:
    """How far another library's embeddings are from the model's.

    Args:
        model: of the artifact.
        inputs: of `write_items`.
        found: modality → embeddings (N, D) of the same items.
        activations, ranges: of `compare`.
    Raises:
        ValueError: they are too far, as in `compare`.
    """
    rounding = rounded_inputs(model.model, ranges) if activations else nullcontext()
    with torch.inference_mode(), rounding:
        wanted = {modality: model.encode(modality, inputs[modality]) for modality in inputs}
    difference = _difference(wanted, found)
    rounds = activations is not None or any(
        isinstance(module, QuantizedInput) for module in model.modules()
    )
    bad = _too_far(difference, rounds=rounds)
    if bad:
        raise ValueError(
            f"what is loaded from the export is not the artifact: {bad}; nothing is kept, load the "
            "artifact itself"
        )
    return difference


def write_items(model: Encoder, folder: Path) -> dict[str, Tensor]:
    """Write `ITEMS` pictures, texts and sounds; gives back what the model reads of them."""
    random = np.random.default_rng(0)
    inputs = {}
    for modality in model.modalities:
        items = _ITEMS[modality](model, random, folder)
        if modality == "image":
            inputs[modality] = torch.stack([model.preprocess(item) for item in items])
        elif modality == "audio":
            inputs[modality] = model.preprocess_audio([torch.from_numpy(wave) for wave in items])
        else:
            inputs[modality] = model.tokenize(items)
    return inputs


def _pictures(model: Encoder, random: np.random.Generator, folder: Path) -> list[Any]:
    """Colors that change slowly, as in photographs, of the size that the tower reads: libraries
    resize in several ways, whose pixels differ by one level."""
    read = model.preprocess(Image.new("RGB", (64, 64))).shape
    size = (read[-1], read[-2]) if len(read) == 3 else (64, 64)
    pictures = []
    for number in range(ITEMS):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pictures.append(coarse.resize(size, Image.Resampling.BICUBIC))
        pictures[-1].save(folder / f"{number:02}.png")
    return pictures


def _texts(model: Encoder, random: np.random.Generator, folder: Path) -> list[Any]:
    texts = [" ".join(random.choice(WORDS, size=2 + number % 5)) for number in range(ITEMS)]
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return texts


def _sounds(model: Encoder, random: np.random.Generator, folder: Path) -> list[Any]:
    """Tones under noise, as long as the model's window: of longer ones libraries cut any part."""
    rate = model.sampling_rate
    time = np.arange(int(rate * (model.window or 1.0))) / rate
    tones = [np.sin(2 * np.pi * (150 + 40 * number) * time) for number in range(ITEMS)]
    waves = np.stack([0.5 * tone + 0.05 * random.normal(size=len(time)) for tone in tones])
    np.savez(folder / "sounds.npz", waves=waves.astype(np.float32), rate=rate)
    return list(waves.astype(np.float32))


_ITEMS = {"image": _pictures, "text": _texts, "audio": _sounds}


def _read(reader: str, folder: Path, items: Path) -> dict[str, np.ndarray]:
    """Modality → embeddings (N, D) by the other library."""
    out = items / "embeddings.npz"
    done = run_program(READERS / f"{reader}.py", folder, items, out)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise ValueError(
            f"the export cannot be loaded again ({lines[-1]}): nothing is kept, load the artifact "
            "itself, or export it without --test"
        )
    with np.load(out) as found:
        return dict(found)


def _difference(wanted: Mapping[str, Tensor], found: Mapping[str, np.ndarray]) -> Difference:
    largest, cosine = {}, {}
    for modality, rows in wanted.items():
        ours, theirs = rows.double().cpu(), torch.from_numpy(found[modality]).double()
        theirs = theirs / theirs.norm(dim=1, keepdim=True)
        largest[modality] = (ours - theirs).abs().max().item()
        cosine[modality] = (ours * theirs).sum(dim=1).mean().item()
    return Difference(largest, cosine)


def _too_far(difference: Difference, *, rounds: bool) -> str:
    """What is too far off, in words; empty where nothing is."""
    for modality, largest in difference.largest.items():
        cosine = difference.cosine[modality]
        if not rounds and not largest <= LARGEST:
            return f"{modality} embeddings differ by up to {largest:.1e}, more than {LARGEST:g}"
        if rounds and not cosine >= LEAST_COSINE:
            return f"{modality} embeddings have a mean cosine of {cosine:.4f}, below {LEAST_COSINE}"
    return ""
