import numpy as np
import pytest
import torch
from PIL import Image

from mmcompress.backbones.examples import Waveform
from mmcompress.data.content import content_id

PIXELS = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
SOUND = torch.linspace(-1, 1, 9)


def test_equal_content_has_one_id():
    image = Image.fromarray(PIXELS.permute(1, 2, 0).numpy())
    assert content_id(PIXELS) == content_id(PIXELS.clone())
    assert content_id(image) == content_id(image.copy())
    assert content_id("a cat") == content_id("a cat")
    assert content_id(Waveform(SOUND, 8000)) == content_id(Waveform(SOUND.clone(), 8000))
    # Not contiguous in memory, and yet the same.
    assert content_id(PIXELS.permute(0, 2, 1).contiguous().permute(0, 2, 1)) == content_id(PIXELS)


def other(value):
    changed = value.clone()
    changed.view(-1)[-1] -= 1
    return changed


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PIXELS, other(PIXELS)),
        (PIXELS, PIXELS.reshape(3, 2, 8)),
        (PIXELS, PIXELS.to(torch.int8)),
        (Waveform(SOUND, 8000), Waveform(SOUND, 16000)),
        (Waveform(SOUND, 8000), Waveform(other(SOUND), 8000)),
        ("a cat", "a  cat"),
        ("a cat", "A cat"),
        (Image.new("L", (2, 2)), Image.new("P", (2, 2))),
        (Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))),
    ],
)
def test_other_content_has_another(one, two):
    assert content_id(one) != content_id(two)


def test_ids_fit_into_a_tensor():
    ids = [content_id(str(number)) for number in range(200)]
    assert torch.tensor(ids).dtype == torch.int64
    assert len(set(ids)) == 200
    assert min(ids) >= 0
    assert np.log2(max(ids)) < 63
