"""Settings of transformers' image processors, as `mmcompress.inputs.pictures` takes them."""

from collections.abc import Mapping
from typing import Any

from mmcompress.backbones.images import RESAMPLING

SIZES = ({"shortest_edge"}, {"height", "width"})
"""Keys of the sizes that can be said."""


def processor_settings(settings: Mapping[str, Any], name: str, *, like: str) -> dict[str, Any]:
    """Steps that do what a processor does, which is the library's usual one.

    Processors of other kinds have settings of the same names and do more: compare pixels.

    Args:
        settings: JSON, all defaults spelt out.
        name: of the processor, for messages.
        like: whether it resizes as Pillow does (`pillow`) or as torchvision does (`tensor`).
    Raises:
        ValueError: a setting that the steps have no word for.
    """
    steps: list[dict[str, Any]] = []
    if settings.get("do_resize"):
        size = {k: v for k, v in (settings.get("size") or {}).items() if v is not None}
        kernels = {number: kernel for kernel, number in RESAMPLING.items()}
        if settings.get("resample") not in kernels or size.keys() not in SIZES:
            raise ValueError(
                f"{name} resizes to {size} by resample={settings.get('resample')}, which the steps "
                "of an export cannot say"
            )
        kernel = kernels[settings["resample"]]
        steps.append({"op": "resize", "size": size, "kernel": kernel, "like": like})
    if settings.get("do_center_crop"):
        sides = {side: settings["crop_size"][side] for side in ("height", "width")}
        steps.append({"op": "crop", "half": "first"} | sides)
    if settings.get("do_rescale"):
        steps.append({"op": "rescale", "factor": settings["rescale_factor"]})
    if settings.get("do_normalize"):
        mean, std = settings["image_mean"], settings["image_std"]
        steps.append({"op": "normalize", "mean": mean, "std": std})
    return {"transparency": "white", "steps": steps}
