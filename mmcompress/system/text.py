"""Text from elsewhere, made safe to show."""

import unicodedata


def printable(text: str) -> str:
    r"""Control characters, lone surrogates and marks that reverse the direction of text as escapes:
    a terminal would obey them.

    Example:
        >>> printable("a\x1b[2Jb"), printable("naïve 👩‍🚀")
        ('a\\x1b[2Jb', 'naïve 👩‍🚀')
    """
    return "".join(c.encode("unicode_escape").decode() if _is_obeyed(c) else c for c in text)


def _is_obeyed(character: str) -> bool:
    code = ord(character)
    reverses = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return reverses or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
