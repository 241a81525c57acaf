"""Pictures of any mode and bit depth have the brightness that their files say."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_image
from transformers import CLIPImageProcessor

from mmcompress.backbones.custom import Custom
from mmcompress.backbones.hf.processors import LibraryPixels
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD, image_transform
from mmcompress.backbones.mlp import MLP
from mmcompress.data.base import PairData
from mmcompress.data.image_folder import ImageFolder
from mmcompress.data.items import PairDataset
from mmcompress.functional.pictures import drop_alpha, on_white, with_alpha
from mmcompress.functional.rgb import to_rgb
from mmcompress.inputs.files import Unreadable, read_image

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).round().astype(np.uint16)
EXPECTED = np.rint(RAMP / 257).astype(np.uint8)  # 65535 = 257 * 255


def stored(picture: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()


def deep_png(values: np.ndarray, color_type: int) -> bytes:
    """A PNG of 16 bits per channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def netpbm(values: np.ndarray, white: int) -> bytes:
    return b"P5 8 8 %d\n" % white + values.astype(">u2").tobytes()


FILES: dict[str, bytes] = {
    "16-bit PNG": stored(Image.fromarray(RAMP), "PNG"),
    "16-bit PNG, color": deep_png(np.stack([RAMP] * 3, -1), 2),
    "16-bit PNG, gray and alpha": deep_png(np.stack([RAMP, RAMP], -1), 4),
    "16-bit PNG, color and alpha": deep_png(np.stack([RAMP] * 4, -1), 6),
    "16-bit TIFF": stored(Image.fromarray(RAMP), "TIFF"),
    "16-bit PGM": netpbm(RAMP, 65535),
    "32-bit TIFF": stored(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "32-bit TIFF of 8-bit values": stored(Image.fromarray(EXPECTED.astype(np.int32)), "TIFF"),
    "float TIFF, white 1": stored(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    "float TIFF, white 255": stored(Image.fromarray((RAMP / 257).astype(np.float32)), "TIFF"),
    "float TIFF, white 65535": stored(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_brightness_of_deep_files(name: str) -> None:
    picture = drop_alpha(read_image(FILES[name]))
    assert picture.mode == "RGB"
    levels = np.asarray(picture).astype(int)
    # Pillow itself cuts the low byte off where there are several channels of 16 bits.
    assert np.abs(levels - EXPECTED[..., None]).max() <= (
        1 if "color" in name or "alpha" in name else 0
    )


def test_a_dark_file_of_16_bits_stays_dark() -> None:
    """Not the values, the format says what white is."""
    dark = (RAMP // 1000).astype(np.uint16)
    for data in (stored(Image.fromarray(dark), "PNG"), netpbm(dark, 65535)):
        assert np.asarray(read_image(data)).max() == 0


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bits_in_memory(mode: str) -> None:
    assert to_rgb(Image.new(mode, (2, 2), 257 * 100)).getpixel((1, 1)) == (100, 100, 100)


MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "LA",
    "PA",
    "La",
    "RGBa",
]


@pytest.mark.parametrize("mode", MODES)
def test_other_modes(mode: str) -> None:
    color = (204, 51, 102)  # is in the web palette of mode P
    luma = round(0.299 * 204 + 0.587 * 51 + 0.114 * 102)
    stage = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode)
    picture = Image.new("RGB", (4, 4), color)
    picture = (picture.convert(stage) if stage else picture).convert(mode)
    assert picture.mode == mode
    found = to_rgb(picture)
    assert found.mode == "RGB"
    if mode == "1":  # black and white dots in place of gray
        assert np.unique(np.asarray(found)).tolist() == [0, 255]
        return
    expected = (luma,) * 3 if mode in ("L", "LA", "La") else color
    tolerance = 3 if mode in ("YCbCr", "LAB", "HSV") else 0  # 8 bits are coarse in these
    np.testing.assert_allclose(found.getpixel((2, 2)), expected, atol=tolerance)


def test_premultiplied_colors_are_divided_by_alpha() -> None:
    half = Image.new("RGBA", (1, 1), (200, 60, 90, 128)).convert("RGBa")
    assert max(half.getpixel((0, 0))[:3]) == 100
    np.testing.assert_allclose(to_rgb(half).getpixel((0, 0)), (200, 60, 90), atol=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.array([[-5, 9]], np.int32),
            r"32-bit integers from -5 to 9, not within 0 to 65535: save",
        ),
        (
            np.array([[0, 70000]], np.int32),
            r"32-bit integers from 0 to 70000, .*: save it with 8 or 16 bits",
        ),
        (np.array([[0.0, -0.5]], np.float32), r"floats from -0\.5 to 0, not within"),
        (np.array([[0.0, np.nan]], np.float32), r"floats from nan to nan"),
        (np.array([[0.0, np.inf]], np.float32), r"floats from 0 to inf"),
    ],
)
def test_values_without_a_range_are_damaged_items(
    values: np.ndarray, message: str, tmp_path: Path
) -> None:
    data = stored(Image.fromarray(values), "TIFF")
    with pytest.raises(Unreadable, match=rf"no readable image \(it holds {message}"):
        read_image(data)
    pairs = PairDataset(images=[Image.fromarray(values)], captions=["x"])
    assert isinstance(pairs[0], Unreadable)


def test_tensors() -> None:
    wide = torch.from_numpy(RAMP).expand(2, 3, 8, 8)
    eight = torch.from_numpy(EXPECTED).expand(2, 3, 8, 8)
    assert torch.equal(to_rgb(wide), eight)
    assert torch.equal(to_rgb(eight), eight)
    assert torch.equal(to_rgb(eight[:, :1]), eight)
    floats = eight / 255
    assert torch.equal(to_rgb(floats), floats)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.full((3, 2, 2), 200.0), r"torch\.float32 holds 200 to 200: give floats in \[0, 1\]"),
        (torch.full((3, 2, 2), float("nan")), "holds nan to nan"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), r"tensor of torch\.int64 is no picture"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"shape \(8, 8, 3\) is no picture"),
        (np.zeros((8, 8, 3), np.uint8), "a ndarray is no picture: give a PIL image or a tensor"),
    ],
)
def test_what_is_no_picture(picture: Any, message: str) -> None:
    for prepare in (to_rgb, image_transform(8, CLIP_MEAN, CLIP_STD), MLP().preprocess):
        with pytest.raises(ValueError, match=message):
            prepare(picture)


def test_every_way_in_gives_the_same_pixels(tmp_path: Path) -> None:
    """A file, a PIL image in memory and a tensor of 16 bits."""
    for name in ("train", "test"):
        (tmp_path / name / "thing").mkdir(parents=True)
        for index in range(2):
            (tmp_path / name / "thing" / f"{index}.png").write_bytes(FILES["16-bit PNG"])
    folder = ImageFolder(root=str(tmp_path))
    from_file = folder.build_splits()["test"][0]["image"]
    pairs = PairDataset(
        images=[Image.fromarray(RAMP), torch.from_numpy(RAMP).expand(3, 8, 8)], captions=["a", "b"]
    )
    prepare = image_transform(8, [0.0] * 3, [1.0] * 3)
    found = [prepare(picture) for picture in (from_file, pairs[0]["image"], pairs[1]["image"])]
    for pixels in found:
        np.testing.assert_allclose(pixels[0] * 255, EXPECTED, atol=1e-4)


def translucent() -> Image.Image:
    """Red at half of its strength, left; nothing over a hidden green, right."""
    picture = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    picture.paste((0, 255, 0, 0), (2, 0, 4, 4))
    return picture


def test_transparency_is_kept_where_there_is_some() -> None:
    picture = translucent()
    assert read_image(stored(picture, "PNG")).mode == "RGBA"
    picture.putalpha(255)
    assert read_image(stored(picture, "PNG")).mode == "RGB"
    palette = Image.new("P", (2, 2), 3)
    palette.putpalette(bytes(range(256)) * 3)
    assert with_alpha(palette).mode == "RGB"
    palette.info["transparency"] = 3
    assert with_alpha(palette).getpixel((0, 0))[3] == 0
    assert drop_alpha(translucent()).getpixel((3, 0)) == (0, 255, 0)
    assert on_white(translucent()).getpixel((3, 0)) == (255, 255, 255)
    np.testing.assert_allclose(on_white(translucent()).getpixel((0, 0)), (227, 127, 127), atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pictures_reach_each_library_as_its_own_would_see_them(mode: str) -> None:
    stage = translucent().convert("P") if mode == "PA" else translucent()
    picture = stage.convert(mode).resize((30, 20))
    picture.putalpha(translucent().getchannel("A").resize((30, 20)))
    settings = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    settings |= {"image_processor_type": "CLIPImageProcessor"}
    theirs = CLIPImageProcessor(**settings)(picture, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(LibraryPixels(settings, size=8)(picture), theirs)
    theirs = open_clip.image_transform(8, is_train=False)(with_alpha(picture))
    ours = image_transform(8, CLIP_MEAN, CLIP_STD)(picture)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_who_reads_no_transparency_gets_none(tiny_data: PairData) -> None:
    """Augmentation and models of the user's own see RGB alone."""
    seen: list[str] = []

    def look(picture: Image.Image) -> Image.Image:
        seen.append(picture.mode)
        return picture

    pairs = PairDataset(images=[translucent()], captions=["a"], augment=look)
    assert pairs[0]["image"].getpixel((3, 0)) == (255, 255, 255)
    plain = pairs.plain()[0]
    assert plain["image"].mode == "RGBA"
    tiny_data.backbone = Custom(
        image_encoder=torch.nn.Flatten(),
        transform=lambda picture: to_image(look(picture)).float(),
    )
    batch = tiny_data.collate([plain])
    assert batch["image"][0, :, 0, 3].tolist() == [0, 255, 0]
    assert seen == ["RGB", "RGB"]
