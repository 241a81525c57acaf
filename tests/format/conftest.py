"""The kinds of encoding that artifacts hold."""

from tests.artifact.conftest import _encode_as, kind

__all__ = ["_encode_as", "kind"]
