"""Steps of preprocessing, one by one, and what pictures may be given as."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcompress.inputs.pictures import Pictures, as_picture


def pixels_of(levels: Any, *steps: dict[str, Any], transparency: str = "white") -> np.ndarray:
    picture = Image.fromarray(np.asarray(levels, np.uint8))
    return Pictures({"transparency": transparency, "steps": steps})([picture])[0]


RAMP = np.repeat(np.arange(20, dtype=np.uint8).reshape(4, 5, 1), 3, axis=2)


@pytest.mark.parametrize(
    ("half", "left"), [("first", 1), ("even", 2)], ids=["first of two middles", "even place"]
)
def test_crop_takes_the_middle(half: str, left: int) -> None:
    found = pixels_of(RAMP, {"op": "crop", "height": 2, "width": 2, "half": half})
    assert found.shape == (3, 2, 2)
    assert found[0].tolist() == RAMP[1:3, left : left + 2, 0].tolist()


def test_crop_of_less_pads_with_black() -> None:
    found = pixels_of(RAMP, {"op": "crop", "height": 6, "width": 5, "half": "first"})
    assert found[0, 0].tolist() == [0] * 5
    assert found[1, 1:5].tolist() == RAMP[..., 0].tolist()


def test_pad_puts_the_odd_pixel_last() -> None:
    found = pixels_of(RAMP, {"op": "pad", "height": 5, "width": 5, "fill": 7})
    assert found[0, :4].tolist() == RAMP[..., 0].tolist()
    assert found[0, 4].tolist() == [7] * 5


def test_longest_edge_keeps_the_ratio() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    resize = {"op": "resize", "size": {"longest_edge": 8}, "kernel": "bicubic", "like": "pillow"}
    assert pixels_of(wide, resize).shape == (3, 2, 8)


@pytest.mark.parametrize(
    ("transparency", "value"), [("white", 255), ("drop", 10), ("drop_last", 10)]
)
def test_transparency(transparency: str, value: int) -> None:
    hidden = np.full((2, 2, 4), [10, 10, 10, 0])
    assert pixels_of(hidden, transparency=transparency)[0, 0, 0] == value


def test_values_by_hand() -> None:
    """(51 / 255 − 0.5) / 0.25."""
    steps = [
        {"op": "rescale", "factor": 1 / 255},
        {"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3},
    ]
    found = pixels_of(np.full((1, 1, 3), 51), *steps)
    np.testing.assert_allclose(found, np.full((3, 1, 1), -1.2), rtol=1e-6)


def test_what_pictures_are_given_as(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 6, 4), dtype=np.uint8)
    picture = Image.fromarray(levels.transpose(1, 2, 0))
    picture.save(tmp_path / "a.png")
    given = [tmp_path / "a.png", levels, levels / 255, levels.astype(np.uint16) * 257, picture]
    for value in given:
        assert np.array_equal(np.asarray(as_picture(value)), np.asarray(picture))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), "a ndarray is no picture: give a path, a PIL image or"),
        (np.full((3, 4, 4), 2.0), "holds 2 to 2: give floats in"),
        (np.zeros((3, 4, 4), np.int64), "an array of int64 is no picture: give uint8"),
        (7, "a int is no picture"),
    ],
)
def test_what_is_no_picture(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_picture(value)
