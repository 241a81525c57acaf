"""The one exception for artifacts that cannot be trusted."""

from pathlib import Path

COPY_AGAIN = "copy or save the artifact again"


class ArtifactError(ValueError):
    """An artifact is damaged, foreign, or of a newer format; nothing of it was loaded.

    Args:
        path: the file or folder that is bad.
        problem: what is wrong with it.
        fix: what to do.
    """

    def __init__(self, path: Path, problem: str, fix: str = COPY_AGAIN) -> None:
        super().__init__(f"{path}: {problem}; {fix}")
