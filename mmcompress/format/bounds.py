"""How many values, and how many tensors, a file of so many bytes may stand for.

A few bytes can stand for any number of equal values, and a manifest of a few bytes can name any
number of tensors. So the whole file is looked at: an honest one holds a fraction of a byte for
every value at least, and thousands of bytes for every layer.
"""

VALUES = 2**26
"""Values that any file may stand for, were they all equal: 256 MiB as float32."""

VALUES_PER_BYTE = 1024
"""Of larger ones. A thousandth of the weights kept, and entropy coded, comes to some 500."""

PLACES, BYTES_PER_PLACE, MOST_PLACES = 6_000, 4096, 100_000
"""Tensors that any file may name; bytes for each one more; and the end of it."""


def most_values(stored: int) -> int:
    """How many values a file of `stored` bytes may stand for."""
    return max(VALUES, VALUES_PER_BYTE * stored)


def most_places(stored: int) -> int:
    """How many tensors, or modules and parameters, a file of `stored` bytes may ask for."""
    return min(PLACES + stored // BYTES_PER_PLACE, MOST_PLACES)


def check_values(values: int, stored: int) -> None:
    """Refuse a model of more values than the bytes can stand for.

    Args:
        values: of all its tensors, ties left out.
        stored: bytes of the files.
    Raises:
        ValueError: it has more.
    """
    if values > most_values(stored):
        raise ValueError(f"its {values:,} values are more than {stored:,} bytes can stand for")
