"""From an exception to the one sentence that a user reads."""

import logging
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from typing_extensions import ParamSpec

from mmcompress.config.overrides import NO_NULL, NULL_GROUP, sentence_of_hydra

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

USER_ERRORS = (ValueError, ModuleNotFoundError, OSError, HydraException, MissingMandatoryValue)
LIGHTNING = "MisconfigurationException"
"""Lightning's, by name: who only reads a report need not wait for its import."""

FULL_KEY = re.compile(r"full_key: (\S+)$")

CALLED = re.compile(r"(?!\S*__init__\()\S+\(\) missing \d+ required positional arguments?: ")
"""What Python says of a function without its arguments; not of a constructor."""


def root_cause(error: BaseException) -> BaseException:
    """What went wrong inside a constructor that Hydra called; `error` itself otherwise."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_sentence(error: BaseException) -> str:
    """What a user reads of an error: in one line, with the key of the configuration.

    Example:
        >>> one_sentence(ValueError("no table\\n  there"))
        'no table there'
    """
    cause = root_cause(error)
    if isinstance(cause, OmegaConfBaseException):
        text = f"{cause.full_key}: {str(cause).splitlines()[0]}"
    elif isinstance(cause, HydraException):
        text = sentence_of_hydra(cause)
    else:
        text = str(cause) or type(cause).__name__
        text = NO_NULL if text == NULL_GROUP else text
    if error is not cause and isinstance(cause, TypeError) and CALLED.match(text):
        text += "; `_target_` calls a function: add `_partial_: true` to give the function itself"
    key = _key(error)
    return " ".join((text if key in text else f"{key}: {text}").split())


def _key(error: BaseException) -> str:
    """Where in the configuration the innermost constructor that failed stands; else empty."""
    key = ""
    while isinstance(error, InstantiationException):
        found = FULL_KEY.search(str(error))
        key = found[1] if found else key
        if error.__cause__ is None:
            break
        error = error.__cause__
    return key


def in_one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """End the program with one line on an error that the user can mend.

    Those are `USER_ERRORS` and `LIGHTNING`. Everything else is a bug and keeps its traceback;
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
            sys.exit(f"error: {one_sentence(error)}")

    return wrapper


def _is_mendable(error: Exception, cause: BaseException) -> bool:
    """A TypeError is where Hydra called a constructor with what the user has configured."""
    mendable = isinstance(cause, USER_ERRORS) or type(cause).__name__ == LIGHTNING
    return mendable or (cause is not error and isinstance(cause, TypeError))
