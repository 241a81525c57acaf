"""Command lines that cannot be read end in one sentence, for `train.py` and `mmcompress` alike."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from hydra._internal import utils as hydra_utils

from mmcompress.config.errors import in_one_sentence


def plainly(main: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of `hydra.main` end in one sentence on a bad command line.

    Hydra has no setting for how it reports its errors, so its reporter gets a function that has
    reported what a user can mend.
    """

    @wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not args:
            _check_options(sys.argv[1:])
        report = hydra_utils.run_and_report
        hydra_utils.run_and_report = lambda func: report(in_one_sentence(func))
        try:
            return main(*args, **kwargs)
        finally:
            hydra_utils.run_and_report = report

    return wrapper


class Plain(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line without the usage."""

    def error(self, message: str) -> Any:
        sys.exit(f"error: {message} (--help shows what there is)")


def _check_options(words: list[str]) -> None:
    """Refuse options that Hydra does not have; settings are written without dashes."""
    parser = hydra_utils.get_args_parser()
    parser.__class__ = Plain
    _, unknown = parser.parse_known_args(words)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        sys.exit(
            f"error: {unknown[0]} is no option: settings are written without dashes, {name}=VALUE"
        )
