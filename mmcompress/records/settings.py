"""Configurations as values: hashed, compared, named."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

WITHOUT_EFFECT = (
    "name",
    "logger",
    "callbacks",
    "run_dir",
    "resume",
    "experiment",
    "goals",
    "deployed",
)
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
    if kept.get("runtime") == "dense":  # as before there was a choice
        del kept["runtime"]
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
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, config in zip(names, configs, strict=True):
        groups.setdefault(name, []).append(settings(config))
    keys = {name: _differing(group) for name, group in groups.items()}
    turns = {name: iter(group) for name, group in groups.items()}
    labels = []
    for name in names:
        own = next(turns[name])
        shown = ", ".join(f"{_short(key)}={own.get(key)}" for key in keys[name])
        labels.append(f"{name} ({shown})" if shown else name)
    return labels


def _differing(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys, seeds aside, whose value is not the same in all; one of those that differ alike."""
    found: dict[str, str] = {}  # the values of all → the first key that has them
    for key in dict.fromkeys(key for own in group for key in own):
        values = [own.get(key) for own in group]
        if not _is_seed(key) and any(value != values[0] for value in values):
            found.setdefault(json.dumps(values), key)
    return list(found.values())


FAMILIES = {
    "sharing": "sharing",
    "lowrank": "low rank",
    "pruning": "pruning",
    "quantization": "quantization",
}
"""Package of `mmcompress.compression` → what the methods in it are called together."""

NONE, STACK, OTHER = "none", "stack", "other"


def family(config: Mapping[str, Any]) -> str:
    """To which family the steps belong; `STACK` when to several, `OTHER` when to none of ours.

    Example:
        >>> step = {"_target_": "mmcompress.compression.quantization.gptq.GPTQ"}
        >>> family({"compression": {"steps": {"gptq": step}}}), family({})
        ('quantization', 'none')
    """
    steps = (config.get("compression", {}).get("steps") or {}).values()
    targets = [step.get("_target_", "") for step in steps if step is not None]
    found = {
        next((name for part, name in FAMILIES.items() if f".{part}." in target), OTHER)
        for target in targets
    }
    return NONE if not found else found.pop() if len(found) == 1 else STACK


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Scalars and empty containers, by dotted path."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, list):
        items = enumerate(value)
    elif not isinstance(value, str | int | float | None) and isinstance(value, Mapping):
        items = value.items()
    empty = True
    for key, inner in items:
        empty = False
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    if empty:
        yield path, value


def _is_seed(path: str) -> bool:
    return path.rpartition(".")[2] == "seed"


def _short(path: str) -> str:
    """Last part of a dotted key; the one before it where the last is `_target_`."""
    return path.removesuffix("._target_").rpartition(".")[2]
