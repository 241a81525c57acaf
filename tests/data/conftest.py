"""Small files of every kind."""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image


def picture(color: str = "red", size: tuple[int, int] = (40, 36)) -> bytes:
    """A JPEG of one color."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "JPEG")
    return file.getvalue()


def tone(pitch: float, *, seconds: float = 0.5, rate: int = 16000, channels: int = 1) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)
    soundfile.write(file, np.stack([wave] * channels, axis=1), rate, format="WAV")
    return file.getvalue()


def write_shard(
    path: Path, files: Mapping[str, bytes] | Sequence[tuple[str, bytes | tuple[bytes, str]]]
) -> Path:
    """Name → content, or type and name of the target of a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            member = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                member.type, member.linkname = data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def labeled_root(tmp_path: Path) -> Path:
    """CLIP_benchmark's layout: two training shards of ten, a test shard of three, two classes."""
    root = tmp_path / "colors"

    def item(split: str, index: int) -> dict[str, bytes]:
        color = ("red", "blue")[index % 2]
        return {
            f"{split}{index:02}.jpg": picture(color),
            f"{split}{index:02}.cls": str(index % 2).encode(),
        }

    for shard in range(2):
        files = {k: v for i in range(10) for k, v in item("t", 10 * shard + i).items()}
        write_shard(root / "train" / f"{shard}.tar", files)
    files = {k: v for i in range(3) for k, v in item("e", i).items()}
    write_shard(root / "test" / "0.tar", files)
    (root / "classnames.txt").write_text("red\nblue\n")
    templates = "a {c} cat\na {c} dog\n"
    (root / "zeroshot_classification_templates.txt").write_text(templates)
    return root


@pytest.fixture
def sound_root(tmp_path: Path) -> Path:
    """Sounds with captions, one of them damaged."""
    root = tmp_path / "sounds"
    files = {}
    for index, color in enumerate(("red", "green", "blue", "black")):
        stem = f"s/{index}"
        files[f"{stem}.wav"] = tone(200 * (index + 1), channels=1 + index % 2)
        files[f"{stem}.txt"] = f"{color} cat\n{color} dog\n".encode()
    write_shard(root / "train" / "0.tar", files)
    broken = {"s/9.wav": b"RIFF....", "s/9.txt": b"red key"}
    write_shard(root / "test" / "0.tar", files | broken)
    return root


@pytest.fixture
def image_files(tmp_path: Path) -> Callable[..., Path]:
    """Write `name.jpg` files below a folder; returns the folder."""

    def write(*names: str, folder: str = "images") -> Path:
        for index, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(("red", "green", "blue")[index % 3]))
        return tmp_path / folder

    return write
