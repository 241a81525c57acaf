"""Pictures to pixels for the models of transformers, by the library's own image processors."""

import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPImageProcessor,
    PretrainedConfig,
    SiglipImageProcessor,
)
from transformers.utils import cached_file

from mmcompress.backbones.hf.files import PREPROCESSOR_FILE, named
from mmcompress.backbones.hf.siglip2 import packed
from mmcompress.backbones.hf.steps import processor_settings
from mmcompress.backbones.images import (
    CLIP_MEAN,
    CLIP_STD,
    RESAMPLING,
    image_transform,
    transform_settings,
)
from mmcompress.functional.pictures import on_white
from mmcompress.functional.rgb import to_rgb
from mmcompress.system.files import write_json

log = logging.getLogger(__name__)

PROCESSOR_FILE = "processor_config.json"
"""Settings of all processors of a model, since transformers 5."""

LARGEST = 16384
"""Of the sizes that settings may ask for, in pixels or patches."""

_SIZES = ("size", "crop_size", "pad_size", "patch_size", "max_num_patches")
_TYPE = re.compile(r"\w+ImageProcessor(Fast|Pil)?")


class Pixels(Protocol):
    """PIL image or tensor that `to_rgb` takes → a tower's input, float32."""

    @property
    def spec(self) -> dict[str, Any]:
        """JSON: arguments of `pixels_of`."""
        ...

    def __call__(self, image: Any) -> Tensor: ...

    def feeding(self) -> dict[str, Any]:
        """The same, as `mmcompress.inputs.pictures` takes it.

        Raises:
            ValueError: it has no words for it.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what `AutoImageProcessor` reads."""
        ...


def pixels_of(
    size: int,
    image_processor: Mapping[str, Any] | None = None,
    *,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    resize_mode: str = "shortest",
    interpolation: str = "bicubic",
) -> Pixels:
    """How a tower's pictures are prepared.

    Args:
        size: height and width that the tower reads, in pixels.
        image_processor: settings of a processor of transformers.
        mean, std, resize_mode, interpolation: of `image_transform`, where there are no such
            settings.
    Raises:
        ValueError: settings of no processor of transformers, or an unknown mode.
    """
    if image_processor is not None:
        return LibraryPixels(image_processor, size=size)
    return OwnPixels(size, mean, std, resize_mode=resize_mode, interpolation=interpolation)


class OwnPixels:
    """By `image_transform`: of models that were built without files, and of artifacts of 0.1."""

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        resize_mode: str,
        interpolation: str,
    ) -> None:
        if resize_mode == "longest":
            raise ValueError("resize_mode='longest' is open_clip's: give shortest or squash")
        self.size = size
        self.spec: dict[str, Any] = {
            "mean": list(mean),
            "std": list(std),
            "resize_mode": resize_mode,
            "interpolation": interpolation,
        }
        self._transform = image_transform(size, **self.spec)

    def __call__(self, image: Any) -> Tensor:
        return self._transform(to_rgb(image))  # 0.1 dropped transparency before it resized

    def feeding(self) -> dict[str, Any]:
        return transform_settings(self.size, **self.spec, transparency="drop")

    def save(self, folder: Path) -> None:
        square = {"height": self.size, "width": self.size}
        common: dict[str, Any] = {
            "image_mean": self.spec["mean"],
            "image_std": self.spec["std"],
            "resample": RESAMPLING[self.spec["interpolation"]],
        }
        if self.spec["resize_mode"] == "shortest":
            common |= {"size": {"shortest_edge": self.size}, "crop_size": square}
            CLIPImageProcessor(**common).save_pretrained(folder)
        else:
            SiglipImageProcessor(size=square, **common).save_pretrained(folder)


class LibraryPixels:
    """By a processor of transformers.

    Args:
        settings: JSON, as the library stores them; `image_processor_type` names the class.
        size: height and width that the tower reads, in pixels.
    Raises:
        ValueError: settings that the library cannot make a processor of, or code to run.
    """

    def __init__(self, settings: Mapping[str, Any], *, size: int) -> None:
        self.settings, self.size = dict(settings), size
        name = self.settings.get("image_processor_type")
        if not isinstance(name, str) or not _TYPE.fullmatch(name) or "auto_map" in self.settings:
            raise ValueError(
                f"image_processor_type={name!r} of the image settings must name an image processor "
                "of transformers, without auto_map"
            )
        _check_sizes(self.settings)
        self._processor = _build(self.settings, None)

    @property
    def spec(self) -> dict[str, Any]:
        return {"image_processor": self.settings}

    def __call__(self, image: Any) -> Tensor:
        """(…, 3, S, S), or (…, patches, values + 2) by SigLIP 2's processor, see `packed`.

        Raises:
            ValueError: no picture, or pixels that the tower cannot read.
        """
        if not torch.is_tensor(image):
            return self._of([on_white(image)])[0]  # as the library does where it converts at all
        picture = to_rgb(image)
        if picture.is_floating_point():
            picture = (picture * 255).round().to(torch.uint8)  # all that the library reads alike
        pixels = self._of(list(picture.flatten(0, -4)) if picture.ndim > 3 else [picture])
        return pixels.unflatten(0, picture.shape[:-3]) if picture.ndim > 3 else pixels[0]

    def _of(self, pictures: list[Any]) -> Tensor:
        # Else the library would have to guess where the channels are in a picture 3 pixels wide.
        order = {"input_data_format": "channels_first"} if torch.is_tensor(pictures[0]) else {}
        try:
            found = dict(self._processor(pictures, return_tensors="pt", **order))
        # What the library raises on settings that it took and cannot follow cannot be listed.
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or "no message"
            raise ValueError(
                f"{self._named} cannot prepare a picture by its settings "
                f"({type(error).__name__}: {reason}): correct {PREPROCESSOR_FILE}"
            ) from error
        if {*found} == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}:
            return packed(**found)
        pixels = found.pop("pixel_values", None)
        if found or not torch.is_tensor(pixels):
            others = ", ".join(found) or "no pixel_values"
            raise ValueError(f"{self._named} gives {others}, which the adapter cannot hand on")
        if pixels.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"{self._named} gives pixels of shape {tuple(pixels.shape[1:])} and the image "
                f"tower reads {(3, self.size, self.size)}: correct size and crop_size in "
                f"{PREPROCESSOR_FILE}"
            )
        return pixels.float()

    def feeding(self) -> dict[str, Any]:
        like = "tensor" if self._processor.backend == "torchvision" else "pillow"
        return processor_settings(self.settings, self._named, like=like)

    @property
    def _named(self) -> str:
        return f"the image processor {self.settings['image_processor_type']}"

    def save(self, folder: Path) -> None:
        write_json(folder / PREPROCESSOR_FILE, self.settings)


def read_image_processor(
    name_or_path: str, config: PretrainedConfig, *, size: int, local: bool
) -> dict[str, Any]:
    """Settings of the processor that `AutoImageProcessor` gives, all defaults spelt out.

    Sizes that a model's files do not give are those of its tower, where the library's own default
    would be those of another.

    Args:
        config: of the model; says which processor is meant where the files do not.
        size: height and width that its tower reads, in pixels.
        local: use no network.
    Raises:
        ValueError: the files cannot be read, or their pixels do not fit the tower.
    """
    try:
        return _read(name_or_path, config, size, local)
    except (OSError, ValueError) as error:
        raise ValueError(f"{named(name_or_path)}: {error}") from error


def _read(name_or_path: str, config: PretrainedConfig, size: int, local: bool) -> dict[str, Any]:
    stored = _stored(name_or_path, local)
    if stored is None:
        log.warning(
            "%s has no %s: its pictures are prepared by the library's defaults for a %s of %d x %d",
            name_or_path,
            PREPROCESSOR_FILE,
            config.model_type,
            size,
            size,
        )
        stored = {}
    named_class = _class_of(stored)
    if named_class is None and "auto_map" in stored:
        raise ValueError(
            f"its {PREPROCESSOR_FILE} asks for code of its own (auto_map), which is not run: set "
            "image_processor_type to a class of transformers"
        )
    if named_class is not None:
        stored = stored | {"image_processor_type": named_class}
    processor = _build(stored, _deciding(config) if named_class is None else None)
    settings = json.loads(processor.to_json_string())
    vision: Any = getattr(config, "vision_config", None)
    if "patch_size" in settings and "patch_size" not in stored:
        settings["patch_size"] = vision.patch_size
    sized = _sized(settings, stored, size)
    for choice in [settings] if sized == settings else [settings, sized]:
        try:
            pixels = LibraryPixels(choice, size=size)
            for height, width in ((96, 32), (32, 96)):
                pixels(torch.zeros(3, height, width, dtype=torch.uint8))
            return choice
        except ValueError as error:
            reason = error
    raise reason


def _class_of(stored: Mapping[str, Any]) -> str | None:
    """The class that the settings name, in the words of today: processors were called otherwise."""
    name = stored.get("image_processor_type", stored.get("feature_extractor_type"))
    return None if name is None else str(name).replace("FeatureExtractor", "ImageProcessor")


def _sized(settings: dict[str, Any], stored: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The settings with the tower's size in place of defaults of the library."""
    if "crop_size" in stored:  # then the library's default of the size before cropping counts
        return settings
    absent = {"size", "crop_size"} & settings.keys() - stored.keys()
    return settings | {key: dict.fromkeys(settings[key], size) for key in absent}


def _stored(name_or_path: str, local: bool) -> dict[str, Any] | None:
    """What the files of a model say; transformers prefers the newer file too."""
    for name, key in ((PROCESSOR_FILE, "image_processor"), (PREPROCESSOR_FILE, None)):
        path = cached_file(
            name_or_path,
            name,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
        )
        if path is None:
            continue
        try:
            found = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{name} is no JSON ({error}): correct it") from error
        if not isinstance(found, dict) or not isinstance(found.get(key, {}), dict):
            raise ValueError(f"{name} holds no JSON object of settings: correct it")
        if key is None or key in found:
            return found if key is None else found[key]
    return None


def _build(settings: Mapping[str, Any], config: PretrainedConfig | None) -> Any:
    """The processor that the library makes of the content of `preprocessor_config.json`."""
    settings = {key: value for key, value in settings.items() if key != "auto_map"}
    try:
        with tempfile.TemporaryDirectory() as folder, torch.device("cpu"):
            write_json(Path(folder) / PREPROCESSOR_FILE, settings)
            return AutoImageProcessor.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False
            )
    # What the library raises on foreign settings cannot be listed.
    except Exception as error:
        name = settings.get("image_processor_type")
        reason = " ".join(str(error).split())[:200] or "no message"
        raise ValueError(
            f"transformers makes no image processor of image_processor_type={name!r} and its "
            f"settings ({type(error).__name__}: {reason}): correct {PREPROCESSOR_FILE}"
        ) from error


def _deciding(config: PretrainedConfig) -> PretrainedConfig:
    """The config whose kind of model names a processor: two encoders side by side have none."""
    if config.model_type != "vision-text-dual-encoder":
        return config
    vision: Any = config.vision_config
    return AutoConfig.for_model(vision.model_type.removesuffix("_vision_model"))


def _check_sizes(settings: Mapping[str, Any]) -> None:
    for key in _SIZES:
        value = settings.get(key)
        sizes = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(n, (int, float)) and not 0 < n <= LARGEST for n in sizes):
            raise ValueError(f"{key}={value} of the image settings must lie in 1 to {LARGEST}")
