"""The command line of Hydra, whose mistakes end in one sentence here.

`hydra.main` prints its errors by itself, in up to fifty lines, so the parts that it is made of are
called here instead.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode, TaskFunction
from hydra.version import setbase

from mmcompress.config.compose import MAIN
from mmcompress.config.errors import in_one_sentence
from mmcompress.system.locations import project_path

HYDRA_VERSION = "1.3"
"""Whose defaults hold: jobs stay in the folder they were started in."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line without the usage."""

    def error(self, message: str) -> Any:
        sys.exit(f"error: {message} (--help shows what there is)")


@in_one_sentence
def start(task: TaskFunction, words: Sequence[str]) -> None:
    """Run `task` with the configuration that the words of a command line make, or with several.

    Args:
        task: gets the configuration; launchers send it to other processes, so it is a function of a
            module.
        words: overrides, and Hydra's options such as `-m`.
    """
    parser, args = _parsed(words)
    if args.help:
        from mmcompress.config.helppage import help_page

        print(help_page())
        return
    setbase(HYDRA_VERSION)
    search_path = create_config_search_path(args.config_path or str(project_path("conf").resolve()))
    if args.config_dir is not None:
        folder = Path(args.config_dir).resolve()
        if not folder.is_dir():
            raise ValueError(f"--config-dir {args.config_dir} is not a folder: give one of yours")
        search_path.prepend(
            provider="command-line",
            path=f"file://{folder}",
            anchor=SearchPathQuery(provider="schema"),
        )
    hydra = Hydra.create_main_hydra2(MAIN, search_path)
    try:
        with _same_logging():
            _act(hydra, task, parser, args)
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _same_logging() -> Iterator[None]:
    """Take away in the end the handlers that Hydra gives the root logger, which would keep the
    standard output of now."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _parsed(words: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Ends the program at options that Hydra does not have: settings are written without dashes."""
    parser = get_args_parser()
    parser.__class__ = Parser
    args, unknown = parser.parse_known_args(list(words))
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        sys.exit(
            f"error: {unknown[0]} is no option: settings are written without dashes, {name}=VALUE"
        )
    chosen = [args.run, args.multirun, args.cfg, args.info, args.shell_completion]
    if sum(map(bool, chosen)) > 1:
        parser.error("give one of --run, --multirun, --cfg, --info and --shell-completion")
    return parser, args


def _act(
    hydra: Hydra, task: TaskFunction, parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    name, overrides = args.config_name or MAIN, list(args.overrides)
    if args.hydra_help:
        hydra.hydra_help(config_name=name, args_parser=parser, args=args)
    elif args.cfg:
        hydra.show_cfg(name, overrides, args.cfg, args.package, args.resolve)
    elif args.info:
        hydra.show_info(args.info, config_name=name, overrides=overrides)
    elif args.shell_completion:
        hydra.shell_completion(config_name=name, overrides=overrides)
    elif args.multirun or hydra.get_mode(name, overrides) == RunMode.MULTIRUN:  # a sweep says so
        hydra.multirun(name, task, [*overrides, f"hydra.mode={RunMode.MULTIRUN.name}"])
    else:
        hydra.run(name, task, [*overrides, f"hydra.mode={RunMode.RUN.name}"])
