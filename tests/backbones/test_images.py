import pytest
import torch
from open_clip.transform import image_transform as open_clip_transform
from PIL import Image

from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD, image_transform


def picture(width: int, height: int) -> torch.Tensor:
    """Smooth and noisy parts, (3, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 64, (3, height, width), generator=generator)
    slope = torch.linspace(0, 191, width).expand(3, height, width)
    return (noise + slope).to(torch.uint8)


def as_pil(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def test_by_hand():
    """No resizing: pixel 255 is 1.0, so (1 - 0.5) / 0.25 = 2; pixel 0 gives -2."""
    pixels = torch.tensor([255, 0], dtype=torch.uint8).repeat(3, 2, 1)
    found = image_transform(2, [0.5] * 3, [0.25] * 3)(pixels)
    torch.testing.assert_close(found, torch.tensor([2.0, -2.0]).expand(3, 2, 2))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(50, 40), (20, 31)])
def test_equals_open_clip_on_pil_images(
    size: tuple[int, int], interpolation: str, resize_mode: str
):
    image = as_pil(picture(*size))
    options = {"resize_mode": resize_mode, "interpolation": interpolation}
    expected = open_clip_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD, **options)
    found = image_transform(32, CLIP_MEAN, CLIP_STD, **options)(image)
    # Both resize with PIL; division and normalization round once each, values are below 3.
    torch.testing.assert_close(found, expected(image), rtol=0, atol=1e-6)


def test_tensors_agree_with_pil_images():
    pixels = picture(50, 40)
    transform = image_transform(32, CLIP_MEAN, CLIP_STD)
    # PIL and torch round resized pixels on their own: one level of 255.
    level = 1 / 255 / min(CLIP_STD) + 1e-6
    torch.testing.assert_close(transform(pixels), transform(as_pil(pixels)), rtol=0, atol=level)


def test_a_batch_equals_its_images():
    batch = torch.stack([picture(50, 40), picture(50, 40).flip(-1)])
    transform = image_transform(32, CLIP_MEAN, CLIP_STD)
    assert torch.equal(transform(batch), torch.stack([transform(image) for image in batch]))


def test_gray_and_transparent_images_become_rgb():
    transform = image_transform(8, CLIP_MEAN, CLIP_STD)
    for mode in ("L", "RGBA", "P"):
        assert transform(Image.new(mode, (8, 8))).shape == (3, 8, 8)


def test_unknown_modes():
    with pytest.raises(ValueError, match="resize_mode='crop' must be one of shortest, squash"):
        image_transform(8, CLIP_MEAN, CLIP_STD, resize_mode="crop")
    with pytest.raises(ValueError, match="interpolation='nearest' must be one of bicubic"):
        image_transform(8, CLIP_MEAN, CLIP_STD, interpolation="nearest")
