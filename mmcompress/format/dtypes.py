"""Names of dtypes as manifests have them, as numpy has them, and as safetensors has them.

numpy has no bfloat16: its bits stand in an unsigned integer of two bytes, and `to_float32` reads
them.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One dtype.

    Attributes:
        name: in the manifest.
        numpy: the little-endian dtype that holds its bits.
        safetensors: its name in the header of a file.
    """

    name: str
    numpy: np.dtype
    safetensors: str

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.numpy.itemsize


DTYPES = {
    name: Dtype(name, np.dtype(bits), safetensors)
    for name, bits, safetensors in [
        ("float64", "<f8", "F64"),
        ("float32", "<f4", "F32"),
        ("float16", "<f2", "F16"),
        ("bfloat16", "<u2", "BF16"),
        ("int64", "<i8", "I64"),
        ("int32", "<i4", "I32"),
        ("int16", "<i2", "I16"),
        ("int8", "i1", "I8"),
        ("uint8", "u1", "U8"),
        ("bool", "?", "BOOL"),
    ]
}
"""What tensors may be."""


def to_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values of any dtype as float32.

    Args:
        values: as `Dtype.numpy` has them.
        dtype: name of theirs.

    Example:
        >>> to_float32(np.array([0x3F80, 0xC000], np.uint16), "bfloat16").tolist()
        [1.0, -2.0]
    """
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
