"""Whole numbers that divide others."""


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of a number that is not above a bound.

    Args:
        number, at_most: at least 1.

    Example:
        >>> largest_divisor(4304, 64)
        16
    """
    return next(size for size in range(min(number, at_most), 0, -1) if number % size == 0)
