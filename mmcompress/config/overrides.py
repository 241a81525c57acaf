"""What Hydra says of a command line that it cannot read, in the words of this project.

Hydra's own messages take up to fifty lines, and advise `+key=value` where that ends in the next
error.
"""

import difflib
import re
from collections.abc import Collection

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcompress.config.moved import moved_key

AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'")
AGAIN = re.compile(r"(?:Multiple values for|An item is already at) '?([\w/.]+?)'?\.(?:\s|$)")
ADVICE = ("To append to your", "See https://", "Either remove", "Or add a second")
"""How lines of Hydra's begin that advise what does not help."""

NULL_GROUP = "Config group override must be a string or a list. Got NoneType"
NO_NULL = "a group takes the name of one of its files and not null, such as logger=none"

NEAR = 0.8
"""How alike two words are, as `difflib` has it, of which one may be the other misspelt."""

GRAMMAR = (
    "write KEY=VALUE, without spaces around =, and quote a VALUE that has spaces, commas, brackets "
    "or = in it, such as \"name='a, b'\""
)


def sentence_of_hydra(error: HydraException) -> str:
    """One sentence in place of a message of Hydra's."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(error.missing_cfg_file, error.options or ())
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {GRAMMAR}"
    ambiguous = AMBIGUOUS.search(str(error))
    if ambiguous:
        return (
            f"{ambiguous[1]} names several values: add -m to run each of them, write a list as "
            "KEY=[a,b], and quote a text that has commas"
        )
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        return _no_such_key(cause)
    if "Could not override ''" in str(error):
        return f"a setting without a name cannot be read: {GRAMMAR}"
    again = AGAIN.search(str(error))
    if again:
        return f"{again[1]} has a value already: change it with {again[1]}=VALUE, without +"
    kept = [line for line in str(error).splitlines() if not line.strip().startswith(ADVICE)]
    return " ".join(kept) or type(error).__name__


def _no_such_choice(path: str, options: Collection[str]) -> str:
    group, _, choice = path.rpartition("/")
    text = f"{group}={choice}: there is no such file in the configuration; "
    if group in ("hydra/launcher", "hydra/sweeper"):
        text = f'{group}={choice}: not there, or it needs pip install "mmcompress[sweep]"; '
    return text + _choose(choice, options)


def _no_such_key(error: OmegaConfBaseException) -> str:
    """With `+` where what the key belongs to takes it, and what there is to choose from else."""
    moved = moved_key(str(error.full_key))
    if moved is not None:
        return moved
    where, _, key = str(error.full_key).rpartition(".")
    parent = error.parent_node
    keys = [str(name) for name in parent if not str(name).startswith(("_", "hydra"))]
    place = f"{where} has no key {key}" if where else f"there is no key {key}"
    sentence = f"{error.full_key}: {place}; {_choose(key, keys)}"
    if _near(key, keys):  # known before anything is imported that takes seconds
        return sentence
    target = OmegaConf.is_dict(parent) and OmegaConf.select(parent, "_target_")
    from mmcompress.config.validation import takes

    if target and takes(target, key):
        return f"{error.full_key} is not set in this configuration: set it with a plus sign, " + (
            f"+{error.full_key}=VALUE"
        )
    if not keys:
        return f"{error.full_key}: {where} has no keys that could be set"
    return sentence


def _near(given: str, options: Collection[str]) -> list[str]:
    """Of which options it may be a misspelling."""
    return difflib.get_close_matches(given, list(options), cutoff=NEAR)


def _choose(given: str, options: Collection[str]) -> str:
    """Example:
    >>> _choose("lowrnk", ["lowrank", "int8"])
    'did you mean lowrank?'
    >>> _choose("x", ["lowrank", "int8"])
    'choose one of lowrank, int8'
    """
    near = _near(given, options)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose one of {', '.join(options)}"
