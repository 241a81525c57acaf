"""From an exception to the one sentence that a user reads."""

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from hydra.errors import InstantiationException
from typing_extensions import ParamSpec

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

MENDABLE = (ValueError, ModuleNotFoundError, OSError)
LIGHTNING = "MisconfigurationException"
"""Lightning's, by name: who only reads a report need not wait for its import."""


def root_cause(error: BaseException) -> BaseException:
    """What went wrong inside a constructor that Hydra called; `error` itself otherwise."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def in_one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """End the program with one line on an error that the user can mend.

    Those are `MENDABLE` and `LIGHTNING`. Everything else is a bug and keeps its traceback;
    `HYDRA_FULL_ERROR=1` shows all tracebacks.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            cause = root_cause(error)
            if not _is_mendable(error, cause) or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            log.debug("traceback", exc_info=error)
            sys.exit(f"error: {cause}")

    return wrapper


def _is_mendable(error: Exception, cause: BaseException) -> bool:
    """A TypeError is where Hydra called a constructor with what the user has configured."""
    mendable = isinstance(cause, MENDABLE) or type(cause).__name__ == LIGHTNING
    return mendable or (cause is not error and isinstance(cause, TypeError))
