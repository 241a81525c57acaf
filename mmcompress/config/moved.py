"""Keys of the configuration that had another name once."""

MOVED = {"compression.budget": "budget"}
"""Keys that have another name now."""


def moved_key(key: str) -> str | None:
    """What to write in place of a key that has another name now; None where it has not.

    Example:
        >>> moved_key("compression.budget.ratio")
        'compression.budget.ratio has moved: write budget.ratio=VALUE'
    """
    for old, new in MOVED.items():
        if key == old or key.startswith(f"{old}."):
            now = new + key.removeprefix(old)
            example = now if "." in now else f"{now}.ratio"
            return f"{key} has moved: write {example}=VALUE"
    return None
