"""The one exception for artifacts that cannot be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COPY_AGAIN = "copy or save the artifact again"

LONGEST = 600
"""Characters of what is wrong that are shown: names in an artifact may be of any length."""


class ArtifactError(ValueError):
    """An artifact is damaged, foreign, or of a newer format; nothing of it was loaded.

    Args:
        path: the file or folder that is bad.
        problem: what is wrong with it.
        fix: what to do.
    """

    def __init__(self, path: Path, problem: str, fix: str = COPY_AGAIN) -> None:
        super().__init__(f"{one_line(str(path))}: {one_line(problem)}; {fix}")


def one_line(text: str) -> str:
    r"""The text on one line, short enough to read; what a terminal would obey is spelt out.

    Example:
        >>> one_line("a\x1b[31m\nb")
        'a\\x1b[31m b'
    """
    text = " ".join(text.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: 2 * LONGEST])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ..."


@contextmanager
def refusing(path: Path, problem: str, fix: str = COPY_AGAIN) -> Iterator[None]:
    """Whatever a library raises within it becomes an `ArtifactError`.

    What foreign data makes libraries raise cannot be listed: tokenizers' PanicException is no
    Exception even. An interrupt goes through.

    Args:
        path, problem, fix: of the error; the reason is added to the problem.
    """
    try:
        yield
    except ArtifactError:
        raise
    except ImportError as error:
        raise ArtifactError(
            path, f"{problem}: a library is missing ({error})", "install it"
        ) from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        ours = type(error) is ValueError
        reason = f": {error}" if ours else f" ({type(error).__name__}: {error})"
        raise ArtifactError(path, f"{problem}{reason}", fix) from error
