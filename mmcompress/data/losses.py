"""What a data set leaves out, and why: named in the log, and counted."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

NAMED = 10
"""Items of one split and reason that the log names; all of them are counted."""


class Losses:
    """What one split leaves out, by reason. Each item counts once, however often it is read."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._lines: list[str] = []
        self._said: set[str] = set()

    def add(self, reason: str, name: str, line: str | None = None) -> None:
        """Count an item.

        Args:
            reason: such as `no such file`; items of one reason are counted together.
            name: of the item, its own in this split.
            line: what the log says of it; name and reason when None.
        """
        names = self._names.setdefault(reason, set())
        if name not in names and len(names) < NAMED:
            self._lines.append(line or f"{name} left out, {reason}")
        names.add(name)

    @property
    def counts(self) -> dict[str, int]:
        """Reason → number of items, the largest first."""
        sizes = {reason: len(names) for reason, names in self._names.items()}
        return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))

    def tell_names(self, title: str) -> None:
        """Log the items that were added since, at most `NAMED` of each reason."""
        for line in self._lines:
            log.warning("%s: %s", title, line)
        self._lines.clear()

    def tell_counts(self, title: str) -> None:
        """Log how many there are of each reason, when that has changed since."""
        if self._names:
            total = sum(self.counts.values())
            self.say(f"{title}: {total} items left out: {by_reason(self.counts)}")

    def say(self, line: str) -> None:
        """Log a line of this split, unless that was done before."""
        if line not in self._said:
            log.warning("%s", line)
        self._said.add(line)


def by_reason(counts: Mapping[str, int]) -> str:
    """Counts in one line.

    Example:
        >>> by_reason({"no such file": 3, "no caption": 1})
        'no such file (3), no caption (1)'
    """
    return ", ".join(f"{reason} ({count})" for reason, count in counts.items())
