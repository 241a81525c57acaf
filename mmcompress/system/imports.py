"""How long the import of libraries takes, and the building of models."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let Python look for unreachable cycles again when this is over.

    Importing torch, transformers and Lightning makes more than a million objects, and nearly all of
    them stay: the collector goes through them again and again, a fifth of the time, and finds
    nothing. So it does while the modules of a model are built. Also a decorator.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
