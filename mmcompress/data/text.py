"""Text that users write: UTF-8, with or without a byte order mark."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins as UTF-16's does
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: it is in another encoding; says how to convert it.
    """
    return decoded(file.read_bytes(), str(file))


def decoded(data: bytes, name: str) -> str:
    """The text of a file called `name`.

    Raises:
        ValueError: it is in another encoding; says how to convert it.
    """
    _check_start(data, name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _other_encoding(error, name) from error


@contextmanager
def open_text(file: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """A file to read line by line.

    Raises:
        ValueError: it is in another encoding; says how to convert it.
    """
    with file.open("rb") as start:
        _check_start(start.read(4096), str(file))
    try:
        with file.open(encoding="utf-8-sig", newline=newline) as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise _other_encoding(error, str(file)) from error


def check_characters(text: str, where: str) -> None:
    """Refuse what no tokenizer takes: NUL, and halves of UTF-16 pairs.

    Raises:
        ValueError: names the character.
    """
    wrong = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if wrong is not None:
        raise ValueError(f"{where}, holds the character {wrong!r}, which is no text: remove it")


def _check_start(data: bytes, name: str) -> None:
    encoding = next((e for mark, e in _MARKS.items() if data.startswith(mark)), None)
    if encoding is None:  # English in UTF-16 has a NUL in every second byte
        for order, half in (("UTF-16LE", data[1:4096:2]), ("UTF-16BE", data[0:4096:2])):
            if half and half.count(0) > len(half) / 2:
                encoding = order
    if encoding is not None:
        raise ValueError(f"{name} is {encoding} text: {_fix(encoding, name)}")


def _other_encoding(error: UnicodeDecodeError, name: str) -> ValueError:
    byte = error.object[error.start]
    return ValueError(
        f"{name} is no UTF-8 text (it holds the byte 0x{byte:02x}): where it is Latin-1, "
        f"{_fix('LATIN1', name)}"
    )


def _fix(encoding: str, name: str) -> str:
    return f"convert it with iconv -f {encoding} -t UTF-8 {name} > NEW"
