"""What the benchmark asks of a library."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from mmcompress.benchmarks.peers.towers import Towers

Batches = Sequence[Mapping[str, Tensor]]
"""Calibration data, modality → preprocessed inputs."""


class Peer(ABC):
    """One library with one setting. Constructor arguments stay in `vars(self)`: they key its row.

    Attributes:
        library: what the table calls it.
        packages: distributions that it needs.
        name: of the setting.
        trained: whether a fine-tune comes between `prepare` and `save`.
        saved: how it is stored, for the table.
        reason: why there is no fine-tuned row; empty when there is one.
    """

    library: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    name: str
    trained: bool
    saved: str
    reason: str = ""

    @abstractmethod
    def prepare(self, towers: Towers, batches: Batches) -> None:
        """Edit the towers in place, so that a fine-tune would see the compression."""

    @abstractmethod
    def save(self, towers: Towers, batches: Batches, folder: Path) -> int:
        """Finish the compression and write every file that `load` needs.

        Returns:
            How many of the dense model's parameters were compressed.
        """

    @abstractmethod
    def load(self, folder: Path, blank: Towers) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Modality → function from inputs to embeddings, from the files alone.

        Args:
            blank: the architecture, without weights, for libraries that store none.
        """
