"""A `run.json`, read: each value checked, for a file may come from anywhere, and older records
brought to the present version.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mmcompress.records.schema import COMPLETE, VERSION, Record, first_problem
from mmcompress.system.text import printable

DEEPEST = 50
"""How many containers may lie in one another; ours are a dozen."""

T = TypeVar("T")


def parse(content: Mapping[str, Any], folder: Path) -> Record:
    """A record of what a `run.json` in `folder` holds, brought to the present version.

    Raises:
        ValueError: it is no record of a run; the message is one line.
    """
    upgraded = _upgrade(content) | {"folder": str(folder)}
    try:
        record = typed(Record, upgraded)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    if record.status in COMPLETE and record.size is None:
        raise ValueError("size: Field required")
    return record


def typed(kind: type[T], content: Any) -> T:
    """`kind` made of plain containers, each value checked.

    Raises:
        pydantic.ValidationError: a value that cannot be.
    """
    adapter: TypeAdapter[T] = _adapter(kind)
    return adapter.validate_json(json.dumps(content), strict=True)


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same record in the fields of `VERSION`; what cannot be understood is left as it is."""
    version = content.get("version", 0)
    if version not in range(VERSION + 1):
        raise ValueError(f"version {version} is newer than {VERSION}, which this code reads")
    found = {"numerics": 1} | dict(content) | {"version": VERSION}
    complete = content.get("status") in COMPLETE
    # Before version 1, what had not been measured was an empty object or was not there.
    for name in ("size", "latency", "float16"):
        if found.get(name) == {} and not (complete and name == "size"):
            found[name] = None
    for name in ("timings", "intervals", "data", "config_hash"):
        if found.get(name, 0) is None:
            del found[name]
    if not complete and isinstance(found.get("metrics"), dict):
        found["metrics"] = {"dense": {}, "compressed": {}} | found["metrics"]
    return found


class BadRecord(ValueError):
    """A file that is not a run record; nothing of it is used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} is not a run record ({problem}): delete or move it")
        self.problem = problem


def read(path: Path) -> Record:
    """The record in a file; numbers in it are numbers and texts have no control characters.

    Raises:
        BadRecord: names the file and what is wrong with it.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
        if _depth(content) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} containers lie in one another")
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return parse(_printable(content), path.parent)
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecord(path, str(error)) from error


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _depth(value: Any) -> int:
    """How many containers lie in one another."""
    level, depth = [value], 0
    while True:
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return depth
        depth += 1
        level = [
            inner
            for each in containers
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
