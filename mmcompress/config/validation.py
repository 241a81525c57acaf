"""A composed configuration is held against what its parts are made of, before anything is made.

Each `_target_` says in its signature which keys it takes and of which type, so that every key is
checked and there is no second list of them to keep. Ranges are checked by the constructors.
"""

import inspect
import json
import logging
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from mmcompress.config.moved import MOVED_TARGETS, moved_key
from mmcompress.system.extras import package_missing
from mmcompress.system.imports import collector_paused

TARGET = "_target_"
MADE = ("backbone", "compression", "data", "objective", "optimizer", "trainer")
"""Groups of which a run needs one choice."""

Share = Annotated[float, Field(ge=0, le=1), "a number from 0 to 1"]
Seed = Annotated[int, Field(ge=0, lt=2**32), f"a whole number from 0 to {2**32 - 1}"]
Sizes = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1),
    "a list of whole numbers from 1, such as [1,32]",
]
SETTINGS: dict[str, Any] = {
    "name": str | int | float,
    "seed": Seed,
    "runtime": str,
    "deployed": Literal["onnx"] | None,
    "warmup_ratio": Share,
    "part_lr": dict[str, Annotated[float, Field(ge=0)]] | None,
    "run_dir": str,
    "resume": str | None,
    "goals": list[str],
    "evaluation.split": str,
    "evaluation.evaluators": dict[str, Any],
    "evaluation.latency": dict[str, Any],
    "evaluation.latency.batch_sizes": Sizes,
    "evaluation.latency.seconds": Annotated[float, Field(gt=0), "a number above 0"],
}
"""What no `_target_` takes."""

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    type(None): "null",
}
OBJECT = "an object of the class "
LISTS = (list, tuple, set, frozenset)


@collector_paused()
def check_settings(cfg: DictConfig, *groups: str) -> None:
    """Refuse values that are missing or of a wrong type, unknown keys and missing packages.

    Args:
        cfg: of `conf/train.yaml`.
        groups: top-level keys to look at; all when there are none.
    Raises:
        ValueError: names the key.
        ModuleNotFoundError: names the key and how to install what it needs.
    """
    chosen = [str(key) for key in cfg if not groups or key in groups]
    chosen.sort(key=lambda key: key not in SETTINGS)  # others refer to them
    missing = [name for key in chosen for name in _missing(cfg, key)]
    if missing:
        example = " ".join(f"{name}=VALUE" for name in missing)
        raise ValueError(f"{' and '.join(missing)} must be given: add {example}")
    for group in MADE:
        if group in chosen and OmegaConf.select(cfg, f"{group}.{TARGET}") is None:
            raise ValueError(f"{group}: a run needs one, choose it with {group}=NAME")
    found = [problem for key in chosen for problem in _problems(cfg, key, key)]
    # What another key has brought about comes after that key's own problem.
    for problem in sorted(found, key=lambda problem: problem.elsewhere):
        raise problem.error


@dataclass(frozen=True)
class Problem:
    """What is wrong with a key, and whether its value stands at another key."""

    error: ValueError | ModuleNotFoundError
    elsewhere: bool = False


@dataclass(frozen=True)
class Parameters:
    """What a `_target_` takes.

    Attributes:
        types: name → annotation, `Any` where there is none.
        more: whether it hands other names on, nobody knows where.
    """

    types: Mapping[str, Any]
    more: bool


def takes(target: str, key: str) -> bool:
    """Whether a `_target_` has a parameter of that name."""
    return key in parameters_of(get_object(target)).types


@cache
def parameters_of(target: Callable[..., Any]) -> Parameters:
    """Of a function or class; where a constructor hands on `**kwargs`, its parents' ones too."""
    makers: list[Callable[..., Any]] = [target]
    if inspect.isclass(target):
        makers = [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)]
    known: dict[str, Any] = {}
    for maker in makers:
        if maker is object.__init__:  # made by `__new__`, where it is written in C
            return Parameters(known, more=target.__new__ is not object.__new__)
        try:
            parameters = inspect.signature(maker).parameters
        except (TypeError, ValueError):  # written in C
            break
        hints = _hints(maker)
        for name, parameter in parameters.items():
            open_ended = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if not open_ended and name != "self":
                known.setdefault(name, hints.get(name, Any))
            if get_origin(hints.get(name)) is Unpack:  # it hands on what the `TypedDict` has
                return Parameters(known | get_type_hints(get_args(hints[name])[0]), more=False)
        handed_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not handed_on or not inspect.isclass(target):
            return Parameters(known, more=handed_on)
        if not maker.__module__.startswith("mmcompress"):  # to whom is not for us to know
            break
    return Parameters(known, more=True)


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(maker, include_extras=True)
    except (NameError, TypeError):  # names that are there for type checkers alone
        return {}


def _missing(node: DictConfig | ListConfig, key: Any, path: str = "") -> Iterator[str]:
    path = f"{path}.{key}" if path else str(key)
    if OmegaConf.is_missing(node, key):
        yield path
    elif not OmegaConf.is_interpolation(node, key):
        child = node[key]
        for name in _keys(child):
            yield from _missing(child, name, path)


def _keys(node: Any) -> Collection[Any]:
    if isinstance(node, ListConfig):
        return range(len(node))
    return list(node) if isinstance(node, DictConfig) else []


def _problems(parent: DictConfig | ListConfig, key: Any, path: str) -> Iterator[Problem]:
    """Of one key and all below it; those of an interpolation are told where its value stands."""
    elsewhere = OmegaConf.is_interpolation(parent, key)
    node = parent[key]
    if path in SETTINGS:
        yield from _mismatch(SETTINGS[path], node, path, elsewhere)
    if elsewhere or not isinstance(node, DictConfig | ListConfig):
        return
    if isinstance(node, DictConfig) and node.get(TARGET):
        yield from _problems_of_target(node, path)
    if path == "evaluation.latency":
        yield from _unknown(node, path, [name.removeprefix(f"{path}.") for name in SETTINGS])
    for name in _keys(node):
        yield from _problems(node, name, f"{path}.{name}")


def _problems_of_target(node: DictConfig, path: str) -> Iterator[Problem]:
    try:
        with _silent(logging.getLogger("hydra.utils")):  # it says the error besides raising it
            target = get_object(node[TARGET])
    except ImportError as error:
        yield Problem(
            ValueError(f"{path}.{TARGET}={node[TARGET]} {_not_there(node[TARGET], error)}")
        )
        return
    lacking = package_missing(target)
    if lacking:
        yield Problem(ModuleNotFoundError(f"{path} {lacking}"))
    parameters = parameters_of(target)
    if not parameters.more:
        yield from _unknown(node, path, parameters.types)
    for name in _keys(node):
        hint = parameters.types.get(name, Any)
        elsewhere = OmegaConf.is_interpolation(node, name)
        yield from _mismatch(hint, node[name], f"{path}.{name}", elsewhere)


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _not_there(target: str, error: ImportError) -> str:
    """What is wrong with a `_target_` that cannot be imported, and the fix."""
    if target in MOVED_TARGETS:
        return f"has moved: write {MOVED_TARGETS[target]}"
    why = str(error.__cause__ or error).splitlines()[0]
    return f"cannot be imported ({why}): correct the dotted path of the class or function"


def _unknown(node: DictConfig, path: str, names: Collection[str]) -> Iterator[Problem]:
    for name in _keys(node):
        if not str(name).startswith("_") and name not in names:
            choice = ", ".join(str(known) for known in node if known in names)
            text = moved_key(f"{path}.{name}") or (
                f"{path}.{name}: there is no such setting; {path} has {choice or 'none'}"
            )
            yield Problem(ValueError(text))


def _mismatch(hint: Any, node: Any, path: str, elsewhere: bool) -> Iterator[Problem]:
    value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not _holds_target(value) and not _fits(hint, value):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        yield Problem(ValueError(f"{path}={text} must be {words(hint)}"), elsewhere)


def _holds_target(value: Any) -> bool:
    """Whether objects will be made of a part of it, which are checked where they stand."""
    if isinstance(value, dict):
        return TARGET in value or any(_holds_target(part) for part in value.values())
    return isinstance(value, list) and any(_holds_target(part) for part in value)


def _fits(hint: Any, value: Any) -> bool:
    """Strictly, except that YAML has no tuples and paths: that is how pydantic reads JSON."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            hint, config=ConfigDict(arbitrary_types_allowed=True)
        )
        adapter.validate_json(json.dumps(value, default=str), strict=True)
    except (PydanticUserError, SchemaError):  # no type that values of YAML could be held against
        return True
    except ValidationError:
        return False
    return True


def words(hint: Any) -> str:
    """What a value of a type is, for a sentence.

    Example:
        >>> words(int | None)
        'a whole number or null'
        >>> words(Literal["row", "tensor"])
        'row or tensor'
    """
    found = list(dict.fromkeys(_words(hint)))
    plain = [word for word in found if not word.startswith(OBJECT)]  # YAML holds no objects
    found = plain or found
    return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def _words(hint: Any) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        told = [part for part in arguments[1:] if isinstance(part, str)]
        yield from told or _words(arguments[0])
    elif origin in (Union, types.UnionType):
        for part in arguments:
            yield from _words(part)
    elif origin is Literal:
        yield from map(str, arguments)
    elif hint in WORDS:
        yield WORDS[hint]
    else:
        kind = origin or hint
        if not inspect.isclass(kind):
            yield str(hint)
        elif issubclass(kind, Mapping):
            yield "keys with values"
        elif kind in LISTS or (issubclass(kind, Collection) and arguments):
            yield "a list"
        else:
            yield f"{OBJECT}{kind.__name__}"
