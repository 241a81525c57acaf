"""Configurations as values: hashed, compared, named."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WITHOUT_EFFECT = ("name", "logger", "callbacks", "run_dir", "resume", "experiment")
"""Top-level keys that do not change a result."""

PROCESSES = ("devices", "num_nodes", "strategy", "use_distributed_sampler")
"""Keys of `trainer` that change no result where nothing is trained."""


def config_hash(config: Mapping[str, Any], *, without_seed: bool = False) -> str:
    """First 16 hexadecimal digits of the SHA-256 over every setting that can change a result.

    Args:
        config: plain containers, resolved. `WITHOUT_EFFECT` does not count, nor does the run
            folder where other settings hold it as a part of a path, nor, without training, how
            many processes there are.
        without_seed: leave every key `seed` out too: equal for the repetitions of one experiment.

    Example:
        >>> a = {"seed": 0, "data": {"x": 1, "y": 2}, "run_dir": "runs/1"}
        >>> b = {"run_dir": "runs/2", "data": {"y": 2, "x": 1}, "seed": 0}
        >>> config_hash(a) == config_hash(b)
        True
        >>> config_hash(a) == config_hash(a | {"seed": 1})
        False
        >>> config_hash(a, without_seed=True) == config_hash(a | {"seed": 1}, without_seed=True)
        True
    """
    leaves = sorted(
        (path, value)
        for path, value in settings(config).items()
        if not (without_seed and _is_seed(path))
    )
    return hashlib.sha256(json.dumps(leaves).encode()).hexdigest()[:16]


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting that can change a result, by dotted key.

    Example:
        >>> settings({"data": {"ks": [1, 5]}, "dir": "r/1/x", "run_dir": "r/1", "logger": {}})
        {'data.ks.0': 1, 'data.ks.1': 5, 'dir': '<run_dir>/x'}
    """
    kept = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    trainer = kept.get("trainer") or {}
    if trainer.get("max_steps") == 0 and "devices" in trainer:
        others = {key: value for key, value in trainer.items() if key not in PROCESSES}
        kept["trainer"] = others | {"devices": 1}
    run_dir = config.get("run_dir")
    return {
        path: value.replace(run_dir, "<run_dir>") if run_dir and isinstance(value, str) else value
        for path, value in _leaves(kept)
    }


def recipe_name(config: Mapping[str, Any]) -> str:
    """The run's `name`, which is the recipe's unless someone set it; else the steps in their order.

    Example:
        >>> recipe_name({"name": "deep", "compression": {"steps": {"magnitude": {}}}})
        'deep'
        >>> recipe_name({"compression": {"steps": {"magnitude": {}, "int4": {}, "int8": None}}})
        'magnitude + int4'
        >>> recipe_name({"compression": {"steps": {}}})
        'none'
    """
    if config.get("name"):
        return config["name"]
    steps = config.get("compression", {}).get("steps") or {}
    return " + ".join(name for name, step in steps.items() if step is not None) or "none"


def distinct_names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """`recipe_name` of each, plus the settings (seeds aside) in which those of one name differ.

    Of settings that differ in the same way, such as one and its interpolated copy, the first is
    named.

    Example:
        >>> def config(ratio):
        ...     return {"compression": {"steps": {"lowrank": {"rank_ratio": ratio}}}}
        >>> distinct_names([config(0.3), config(0.5), {}])
        ['lowrank (rank_ratio=0.3)', 'lowrank (rank_ratio=0.5)', 'none']
    """
    names = [recipe_name(config) for config in configs]
    flat = [settings(config) for config in configs]
    labels = []
    for name, own in zip(names, flat, strict=True):
        same = [other for n, other in zip(names, flat, strict=True) if n == name]
        differing: dict[str, str] = {}  # the values of all → the first key that has them
        for key in dict.fromkeys(key for other in same for key in other):
            values = json.dumps([other.get(key) for other in same])
            if not _is_seed(key) and any(other.get(key) != own.get(key) for other in same):
                differing.setdefault(values, key)
        shown = ", ".join(f"{_short(key)}={own.get(key)}" for key in differing.values())
        labels.append(f"{name} ({shown})" if shown else name)
    return labels


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Scalars and empty containers, by dotted path."""
    items = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    if not items:
        yield path, value
    for key, inner in items:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def _is_seed(path: str) -> bool:
    return path.rpartition(".")[2] == "seed"


def _short(path: str) -> str:
    """Last part of a dotted key; the one before it where the last is `_target_`."""
    return path.removesuffix("._target_").rpartition(".")[2]
