"""Writing the tensors of an artifact: one at a time, in the order of their names.

What is written goes to temporary files first, for the header of a safetensors file states lengths
that only the last tensor tells. No more than one tensor, or one frame of a bundle, is in memory.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from mmcompress.format.bundles import bundle_names, stored_dtype, to_frames
from mmcompress.format.chain import Stages
from mmcompress.format.codecs.table import LATEST
from mmcompress.format.dtypes import DTYPES
from mmcompress.format.manifest import PAYLOADS, TENSORS_FILE
from mmcompress.format.names import Entry, to_tree
from mmcompress.format.reader import file_checksum
from mmcompress.format.table import add_row
from mmcompress.format.tensorfile import write_file

MOST_BYTES = 2 * 10**9
"""Of one file; another is begun before it grows longer."""


class Writer:
    """Writes the files of tensors into a folder; a context, which removes what is temporary.

    Args:
        folder: that exists.
        halved: dense float32 tensors, all of which float16 holds exactly, become float16.
        most_bytes: that the tensors of a file may take, the last one aside.
    """

    def __init__(self, folder: Path, *, halved: bool = False, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.halved, self.most_bytes = folder, halved, most_bytes
        self._kinds: list[dict[str, Any]] = []
        self._entries: list[Entry] = []
        self._codebooks: dict[int, tuple[str, Any, np.ndarray]] = {}
        self._files: list[dict[str, Any]] = []
        self._spools: dict[str, IO[bytes]] = {}
        self._tensors = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add_dense(self, entry: Entry, values: np.ndarray) -> None:
        """A tensor as it is.

        Args:
            entry: what the model says of it.
            values: in its dtype, bfloat16 as its bits.
        Raises:
            AssertionError: the dtype that it is stored in does not hold it exactly.
        """
        dtype = stored_dtype(entry.dtype, halved=self.halved)
        if dtype != entry.dtype:
            with np.errstate(over="ignore"):
                rounded = values.astype(DTYPES[dtype].numpy)
            exact = np.array_equal(rounded.astype(values.dtype), values)
            assert exact, f"{entry.name} is not rounded to {dtype}"
            values = rounded
        self._begin(entry, values.nbytes)
        self._spool(dtype).write(np.ascontiguousarray(values).data)

    def add_encoded(
        self,
        entry: Entry,
        steps: Sequence[str],
        stages: Stages,
        payloads: Mapping[str, np.ndarray],
        *,
        codebook: object = None,
    ) -> None:
        """A weight as its payloads.

        Args:
            entry: what the model says of it.
            steps: that touched it.
            stages, payloads: from `encode`.
            codebook: whose identity tells weights that share one; it is stored once.
        """
        owner = entry.name
        if "codebook" in payloads and codebook is not None:
            # The object is kept, so that no later one is taken for it.
            first = (entry.name, codebook, payloads["codebook"])
            owner, _, same = self._codebooks.setdefault(id(codebook), first)
            shared = np.array_equal(same, payloads["codebook"])
            assert shared, f"{entry.name} and {owner} share no more"
        own = [p for n, p in sorted(payloads.items()) if n != "codebook" or owner == entry.name]
        shared_with = None if owner == entry.name else owner
        row = add_row(self._kinds, steps, stages, payloads, shared_with)
        self._begin(replace(entry, row=row), sum(p.nbytes for p in own))
        for payload in own:
            self._spool(PAYLOADS).write(np.ascontiguousarray(payload).data)

    def finish(self) -> dict[str, Any]:
        """What a manifest says of the tensors: `codecs`, `kinds`, `forms`, `tensors`, `files`."""
        self._end_file()
        total = len(self._files)
        for index, file in enumerate(self._files, 1):
            name = TENSORS_FILE if total == 1 else f"model-{index:05}-of-{total:05}.safetensors"
            path = (self.folder / file["name"]).rename(self.folder / name)
            file |= {"name": name, "bytes": path.stat().st_size, "sha256": file_checksum(path)}
        codecs = sorted({stage["codec"] for kind in self._kinds for stage in kind["chain"]})
        forms, tensors = to_tree(self._entries)
        return {
            "codecs": {name: LATEST[name] for name in codecs},
            "kinds": self._kinds,
            "forms": forms,
            "tensors": tensors,
            "files": self._files,
        }

    def _begin(self, entry: Entry, size: int) -> None:
        """Take a tensor of so many bytes down, in another file where this one is full."""
        assert entry.dtype in DTYPES, f"{entry.dtype} has no place in the file"
        assert not self._entries or self._entries[-1].name < entry.name, "names are not in order"
        written = sum(spool.tell() for spool in self._spools.values())
        if self._tensors and written + size > self.most_bytes:
            self._end_file()
        self._entries.append(entry)
        self._tensors += 1

    def _spool(self, name: str) -> IO[bytes]:
        if name not in self._spools:
            self._spools[name] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        return self._spools[name]

    def _end_file(self) -> None:
        tensors: dict[str, tuple[str, np.ndarray]] = {}
        for name, spool in list(self._spools.items()):
            if name == PAYLOADS:
                tensors[PAYLOADS] = "uint8", _map(spool)
            elif spool.tell():
                tensors |= self._bundle(name, spool)
        name = f"part-{len(self._files)}"
        write_file(self.folder / name, tensors)
        self._files.append({"name": name, "tensors": self._tensors})
        tensors.clear()
        self._close()
        self._tensors = 0

    def _close(self) -> None:
        for spool in self._spools.values():
            spool.close()
        self._spools = {}

    def _bundle(self, dtype: str, spool: IO[bytes]) -> dict[str, tuple[str, np.ndarray]]:
        """A bundle as it is or as frames, whichever is smaller."""
        plain, compressed = bundle_names(dtype)
        values = _map(spool)
        frames = self._spool(compressed)
        for frame in to_frames(values.view(DTYPES[dtype].numpy)):
            frames.write(frame.data)
        if frames.tell() < values.nbytes:
            return {compressed: ("uint8", _map(frames))}
        return {plain: (dtype, values)}


def _map(spool: IO[bytes]) -> np.ndarray:
    """All that was written: (length,) uint8, in the file."""
    spool.flush()
    length = spool.tell()
    return np.memmap(spool, np.uint8, "r", shape=(length,)) if length else np.empty(0, np.uint8)
