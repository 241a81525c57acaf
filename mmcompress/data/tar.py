"""Which files a tar file holds and where, and whether it holds all that it did."""

import contextlib
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mmcompress.data.losses import Losses

BLOCK = 512

_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""First bytes of a file → what unpacks it."""


def members(shard: Path, losses: Losses) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, and offset and size in bytes, of each file; hard and symbolic links are resolved.

    Args:
        losses: what cannot be read is added to it: links to nothing, sparse files, and what a cut
            or damage has taken away.
    Raises:
        ValueError: it is no plain tar file.
    """
    files, end = _scan(shard)
    size = shard.stat().st_size
    whole = [member for member in files if member.offset_data + _stored(member) <= size]
    _check_end(shard, end, len(whole), losses)
    named = {posixpath.normpath(member.name): member for member in whole}
    for member in whole:
        if member.isdir():
            continue
        name, found = member.name, _target(member, named)
        if found is None:
            losses.add("a link to nothing in its shard", f"{shard.name}/{name}")
        elif found.sparse is not None or not found.isreg():
            losses.add("no ordinary file in its shard", f"{shard.name}/{name}")
        else:
            yield name, (found.offset_data, found.size)


def _scan(shard: Path) -> tuple[list[tarfile.TarInfo], int]:
    """All members, and the offset at which they end."""
    try:
        with tarfile.open(shard, "r:") as tar:
            files = []
            with contextlib.suppress(tarfile.ReadError):  # cut within a file
                for member in tar:
                    files.append(member)
            return files, tar.offset
    except (OSError, tarfile.TarError) as error:
        with shard.open("rb") as opened:
            start = opened.read(8)
        tool = next((tool for mark, tool in _COMPRESSED.items() if start.startswith(mark)), None)
        fix = "unpack or repair it" if tool is None else f"unpack it with {tool}"
        raise ValueError(f"{shard} is no plain tar file ({error}): {fix}") from error


def _check_end(shard: Path, end: int, files: int, losses: Losses) -> None:
    """A tar file ends in blocks of zeros, which one that was cut lacks."""
    reason = "what follows in a shard that is cut short or damaged"
    with shard.open("rb") as opened:
        opened.seek(end)
        rest = opened.read(BLOCK)
        if rest == bytes(BLOCK):
            reason = "what follows the end of a shard"
            while rest and not any(rest):
                rest = opened.read(1 << 20)
            if not rest:
                return
    losses.add(reason, shard.name, f"{shard.name} left out after its first {files} files, {reason}")


def _target(member: tarfile.TarInfo, named: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The file that a link leads to, over other links; None when it leads nowhere."""
    for _ in range(8):
        if not (member.islnk() or member.issym()):
            return member
        folder = "" if member.islnk() else posixpath.dirname(member.name)
        found = named.get(posixpath.normpath(posixpath.join(folder, member.linkname)))
        if found is None or found is member:
            return None
        member = found
    return None


def _stored(member: tarfile.TarInfo) -> int:
    """Bytes of its content in the shard; a link has none, and a sparse file is not read."""
    return member.size if member.isreg() and member.sparse is None else 0
