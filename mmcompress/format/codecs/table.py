"""The codecs that manifests may name; a new one is a class in a file of its own and a line here."""

from collections.abc import Mapping
from typing import Any

from mmcompress.format.codecs.ans import Ans
from mmcompress.format.codecs.base import Codec
from mmcompress.format.codecs.bitmask import Bitmask
from mmcompress.format.codecs.codebook import Codebook
from mmcompress.format.codecs.float8 import Float8
from mmcompress.format.codecs.pack import Pack
from mmcompress.format.codecs.planes import Planes
from mmcompress.format.codecs.quantize import Quantize

CODECS: dict[tuple[str, int], type[Codec]] = {
    (codec.name, codec.version): codec
    for codec in (Quantize, Float8, Codebook, Bitmask, Pack, Ans, Planes)
}
"""By name and version."""

LATEST = {name: max(v for n, v in CODECS if n == name) for name, _ in CODECS}
"""The version of each codec that is written."""


def read_codec(stage: Mapping[str, Any], versions: Mapping[str, int] = LATEST) -> Codec:
    """The codec of one stage.

    Args:
        stage: as a manifest holds it, unchecked.
        versions: of the codecs that the manifest names.
    Raises:
        ValueError: there is no such codec, or its settings make no sense.
    """
    name = stage.get("codec")
    found = CODECS.get((name, versions.get(name, 0))) if isinstance(name, str) else None
    if found is None:
        names = sorted({name for name, _ in CODECS})
        raise ValueError(f"its stages are not some of {names}: {name!r}")
    return found.read(stage)
