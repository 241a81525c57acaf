"""A folder of exported graphs that embeds pictures, texts and sounds, whatever runs them.

Needs no torch. Packages: tokenizers, Pillow, numpy; rich for the progress bar.
"""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmcompress.functional.not_finite import NotFiniteError, not_scored
from mmcompress.inputs.export import read_export
from mmcompress.inputs.pictures import Pictures, as_picture
from mmcompress.inputs.sounds import Sounds, as_sound
from mmcompress.inputs.texts import Texts
from mmcompress.runtime.base import Embedder
from mmcompress.system.extras import require_package

PREPARE: dict[str, Callable[[dict[str, Any], Path], Callable[[Any], np.ndarray]]] = {
    "image": lambda settings, folder: Pictures(settings),
    "text": Texts,
    "audio": Sounds,
}
"""Modality → what makes a tower's input of a batch."""


class GraphModel(Embedder[Any]):
    """Embeds pictures, texts and sounds by the graphs of a folder, on the CPU.

    A tower is read from its file when it is first used.

    Args:
        folder: that `mmcompress export` wrote.
        threads: for one tower; as many as the runtime thinks best when None.
        rows: what embeddings are given back as: `torch.from_numpy` makes tensors of the arrays.
    Raises:
        ValueError: the runtime is missing, or anything about the folder is wrong.
    """

    runtime: ClassVar[str]
    """What a folder is for, also the extra that installs it."""

    package: ClassVar[str]
    """That runs the graphs."""

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        rows: Callable[[np.ndarray], Any] = np.asarray,
    ) -> None:
        require_package(self.package, extra=self.runtime, asks=f"runtime={self.runtime}")
        self.folder, self.threads = Path(folder), threads
        self.manifest = read_export(self.folder, self.runtime)
        self._rows = rows
        self._sessions: dict[str, Any] = {}
        self._prepare = {
            modality: PREPARE[modality](tower["prepare"], self.folder)
            for modality, tower in self.manifest["towers"].items()
        }

    @abstractmethod
    def run(self, modality: str, inputs: np.ndarray) -> np.ndarray:
        """What a tower's graph gives of its input."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.manifest["towers"])

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities."""
        return self.manifest["logit_scale"]

    @property
    def sampling_rate(self) -> int:
        """Of the sounds that the model hears, in Hz; 0 where it hears none."""
        sounds = self.manifest["towers"].get("audio")
        return sounds["prepare"]["sampling_rate"] if sounds else 0

    @property
    def bytes(self) -> int:
        """Of all files in the folder that the model is run from."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def prepare(self, modality: str, batch: list[Any]) -> np.ndarray:
        """What a tower reads of pictures, texts, or sounds (samples, rate)."""
        return self._prepare[modality](batch)

    def encode(self, modality: str, inputs: np.ndarray) -> np.ndarray:
        """Embeddings (B, D), L2-normalized, of what `prepare` made.

        Raises:
            NotFiniteError: some are NaN or infinite.
        """
        tower = self.manifest["towers"][modality]
        (read,) = tower["inputs"]
        rows = self.run(modality, np.ascontiguousarray(inputs, read["dtype"]))
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
        if bad:
            raise NotFiniteError(not_scored(f"{modality} embeddings", bad, len(rows)), bad)
        return rows.astype(np.float32, copy=False)

    def _read(self, modality: str, value: Any) -> Any:
        return as_picture(value) if modality == "image" else as_sound(value)

    def _run(self, modality: str, batch: list[Any]) -> Any:
        return self.encode(modality, self.prepare(modality, batch))

    def _joined(self, parts: list[Any]) -> Any:
        return self._rows(np.concatenate(parts))
