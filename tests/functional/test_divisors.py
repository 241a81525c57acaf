import pytest

from mmcompress.functional.divisors import largest_divisor


@pytest.mark.parametrize(
    ("number", "at_most", "expected"),
    [(64, 16, 16), (4304, 64, 16), (49, 4, 1), (49, 8, 7), (12, 100, 12), (7, 6, 1), (1, 1, 1)],
)
def test_by_hand(number: int, at_most: int, expected: int) -> None:
    assert largest_divisor(number, at_most) == expected
