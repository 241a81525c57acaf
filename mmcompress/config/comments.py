"""What the YAML files of `conf/` say of themselves."""

from pathlib import Path


def idea_of(path: Path) -> str:
    """The first comment of a YAML file, in one line; empty where it begins with something else.

    A line that says `@package` is Hydra's and is passed over. The comment ends with its first
    sentence.
    """
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# "):
            break
        words.append(line.removeprefix("# ").strip())
        if words[-1].endswith("."):
            break
    return " ".join(words)
