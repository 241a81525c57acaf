"""Texts to the ids that a text tower reads, by settings that are JSON and a `tokenizer.json`.

`docs/onnx.md` specifies the settings; a backbone says which it takes (`Backbone.feeding`).
"""

import html
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer


class Texts:
    """Ids of texts.

    Args:
        settings: `tokenizer`, the name of the file, which also says how texts are cut and padded;
            `prompt`, which is put before each; `clean`, names of `CLEANERS` in their order;
            `replace`, a list of [id, id]; `ids`, how many the tower has an embedding for.
        folder: where the file lies.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / settings["tokenizer"]))
        self._prompt = settings["prompt"]
        self._clean = [CLEANERS[name] for name in settings["clean"]]
        self._replace, self._ids = settings["replace"], settings["ids"]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Int64 (B, L).

        Raises:
            ValueError: a text spells out a token that the model has no embedding for.
        """
        clean = [self._cleaned(text) for text in texts]
        rows = np.array([found.ids for found in self._tokenizer.encode_batch(clean)], np.int64)
        for old, new in self._replace:
            rows[rows == old] = new
        beyond = (rows >= self._ids).any(axis=1)
        if beyond.any():
            raise ValueError(
                f"the text {texts[int(beyond.argmax())][:60]!r} has the token {rows.max()} and the "
                f"model has embeddings for 0 to {self._ids - 1}: leave it out"
            )
        return rows

    def _cleaned(self, text: str) -> str:
        text = self._prompt + text
        for clean in self._clean:
            text = clean(text)
        return text


def _fixed(text: str) -> str:
    """By ftfy, which leaves ASCII without entities and control characters as it is."""
    if text.isascii() and "&" not in text and all(c.isprintable() or c in "\t\n" for c in text):
        return text
    try:
        import ftfy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this model repairs texts such as {text[:20]!r} by the package ftfy: pip install ftfy"
        ) from error
    return ftfy.fix_text(text)


def _without_punctuation(text: str) -> str:
    return text.replace("_", " ").translate(_PUNCTUATION)


_PUNCTUATION = str.maketrans("", "", string.punctuation)

CLEANERS: dict[str, Callable[[str], str]] = {
    "ftfy": _fixed,
    "html": lambda text: html.unescape(html.unescape(text)),
    "strip": str.strip,
    "spaces": lambda text: " ".join(text.split()),
    "punctuation": _without_punctuation,
    "lower": str.lower,
}
"""Name → what it makes of a text: repaired by the Python package ftfy; HTML entities read twice;
without white space at both ends; one space for each run of white space; without ASCII punctuation,
where `_` is a space; in lower case."""
