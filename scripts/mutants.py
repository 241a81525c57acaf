"""Artifacts that someone has changed, with every checksum right again.

What is changed follows from the JSON that is there and knows no name in it: whatever a later format
holds is mutated too.
"""

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmcompress.format.manifest import MANIFEST_FILE, TENSORS_FILE, sign

MARKER = "was_executed"
"""File that the foreign code makes, beside itself, when it runs."""

CODE = f"from pathlib import Path\nPath(__file__).with_name({MARKER!r}).touch()\n"

Place = tuple[Any, ...]
"""Keys and positions from the root of the JSON to a value in it."""

DEEP: Any = "end"
for _ in range(400):
    DEEP = [DEEP]

VALUES: list[Any] = [
    *[
        None,
        True,
        False,
        0,
        1,
        -1,
        7,
        65_537,
        10**6,
        10**9,
        2**31,
        2**63,
        -(2**63),
        10**30,
        10**400,
    ],
    *[0.5, -1.5, 1e-300, 1e300, "", "0", "x", "10", "float32", "\ud800", "\x1b[31m", "a\nb\0c"],
    *["[bold]x[/bold]", "[/]", "a" * 300, "b" * 10**5, "/etc/passwd", "../..", "."],
    *["hf-hub:owner/name", "hf_hub:owner/name", "local-dir:/tmp", "https://example.org/a"],
    *["owner/name", "foreign.Model", "os.system"],
    *[[], {}, [[]], [0], [-1], [10**9], [None], ["x"], {"x": 1}, {"": {}}, DEEP, [0] * 10_000],
]
"""Put in place of any value."""

ENTRIES: dict[str, Any] = {
    "auto_map": {"AutoConfig": "foreign.Config", "AutoModel": "foreign.Model"},
    "trust_remote_code": True,
    "attn_implementation": "owner/name",
    "_attn_implementation": "owner/name:function",
    "quantization_config": {"quant_method": "bitsandbytes"},
    "use_pretrained_backbone": True,
    "pretrained": "https://example.org/weights.bin",
    "num_labels": 10**9,
    "num_hidden_layers": 10**6,
    "max_position_embeddings": 10**9,
    "return_dict": False,
    "output_hidden_states": True,
    "pad_token_id": 10**6,
    "feature_size": 6000,
    "fft_window_size": 120_000,
    "bpe_path": "/etc/passwd",
    "foreign.py": hashlib.sha256(CODE.encode()).hexdigest(),
    "\ud800": 1,
    "[red]": 1,
    "c" * 300: 1,
}
"""Put into any object. These are names of the libraries, whatever the format calls its own."""


def make_mutant(source: Path, folder: Path, seed: int) -> str:
    """Copy an artifact and change it.

    Args:
        source: a whole artifact.
        folder: to create.
        seed: which change.
    Returns:
        What was changed, for messages.
    """
    chance = random.Random(seed)
    shutil.copytree(source, folder)
    (folder / "foreign.py").write_text(CODE)
    before = _stated(source)
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    files = sorted(path for path in folder.iterdir() if path.name != "foreign.py")
    file = chance.choice([None, None, None, *files])
    done = []
    if file is None or file.name == MANIFEST_FILE:
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            manifest, what = mutate(manifest, chance)
            done.append(what)
    elif file.name != TENSORS_FILE and chance.random() < 0.7:
        value, what = mutate(json.loads(file.read_text()), chance)
        file.write_text(json.dumps(value))
        done.append(f"{file.name} {what}")
    else:
        done.append(f"{file.name} {_mutate_bytes(file, chance)}")
    _repair(manifest, folder, before)
    return ", ".join(done)


def _stated(folder: Path) -> dict[Any, tuple[str, str]]:
    """Checksums and lengths of an artifact's files → which file, and which of the two."""
    found: dict[Any, tuple[str, str]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST_FILE:
            found[len(path.read_bytes())] = path.name, "length"
            found[hashlib.sha256(path.read_bytes()).hexdigest()] = path.name, "checksum"
    return found


def _repair(manifest: Any, folder: Path, before: dict[Any, tuple[str, str]]) -> None:
    """State checksums and lengths as they are now wherever the manifest states those of before."""
    for place, value in list(_values(manifest)):
        if not place or not isinstance(value, str | int) or value not in before:
            continue
        name, kind = before[value]
        data = (folder / name).read_bytes()
        now = len(data) if kind == "length" else hashlib.sha256(data).hexdigest()
        _parent(manifest, place)[place[-1]] = now
    write_manifest(manifest, folder)


def write_manifest(manifest: Any, folder: Path) -> None:
    """With a right checksum of its own where it is one that could be signed."""
    try:
        data = sign(manifest)
    except (AttributeError, ValueError, RecursionError):
        data = json.dumps(manifest).encode()
    (folder / MANIFEST_FILE).write_bytes(data)


def replace_everywhere(manifest: Any, old: Any, new: Any) -> None:
    """In place."""
    for place, value in list(_values(manifest)):
        if place and value == old:
            _parent(manifest, place)[place[-1]] = new


def mutate(tree: Any, chance: random.Random) -> tuple[Any, str]:
    """A copy with one change, and what it is."""
    tree = copy.deepcopy(tree)
    extend = chance.random() < 0.3  # what libraries obey stands in few of all places
    place, value = _any_place(tree, chance, objects_only=extend and isinstance(tree, dict))
    ways: list[Callable[..., tuple[Any, str]]] = [_replace, _graft]
    if isinstance(value, dict | list):
        ways += [_delete, _repeat, _exchange]
    if isinstance(value, dict):
        ways = [_add] if extend else [*ways, _rename, _add]
    if isinstance(value, int | float):
        ways += [_scale] * 4
    if isinstance(value, str):
        ways += [_edit]
    new, what = chance.choice(ways)(value, tree, chance)
    what = f"{'.'.join(map(str, place)) or 'all'}: {what}"
    if not place:
        return new, what
    _parent(tree, place)[place[-1]] = new
    return tree, what


def _any_place(
    tree: Any, chance: random.Random, *, objects_only: bool = False
) -> tuple[Place, Any]:
    """A value and its place; one of a thousand alike is no likelier than one that stands alone.

    Alike are the items of a list, and entries whose keys are paths, with a dot.
    """
    kinds: dict[Place, list[tuple[Place, Any]]] = {}
    for place, value in _values(tree):
        if objects_only and not isinstance(value, dict):
            continue
        kind = tuple("*" if isinstance(key, int) or "." in key else key for key in place)
        kinds.setdefault(kind, []).append((place, value))
    return chance.choice(kinds[chance.choice(list(kinds))])


def _replace(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    new = copy.deepcopy(chance.choice(VALUES))
    return new, f"becomes {_short(new)}"


def _graft(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    place, other = _any_place(tree, chance)
    return copy.deepcopy(other), f"becomes what is at {'.'.join(map(str, place))}"


def _delete(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    if not value:
        return value, "stays empty"
    key = chance.choice(list(_keys(value)))
    del value[key]
    return value, f"loses {_short(key)}"


def _repeat(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    if not value:
        return value, "stays empty"
    key = chance.choice(list(_keys(value)))
    if isinstance(value, list):
        times = chance.choice([1, 1, 1000])
        value += [copy.deepcopy(value[key])] * times
        return value, f"has {key} {times} times more"
    name = f"{key}{chance.choice(['_', '.0', ' '])}"
    value[name] = copy.deepcopy(value[key])
    return value, f"has {_short(key)} as {_short(name)} too"


def _exchange(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    if len(value) < 2:
        return value, "stays short"
    one, other = chance.sample(list(_keys(value)), 2)
    value[one], value[other] = value[other], value[one]
    return value, f"exchanges {_short(one)} and {_short(other)}"


def _rename(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    if not value:
        return value, "stays empty"
    key = chance.choice(list(value))
    names = [v for v in VALUES if isinstance(v, str)] + list(ENTRIES)
    name = chance.choice([*names, key[:-1], key.upper(), f"x{key}"])
    value[name] = value.pop(key)
    return value, f"calls {_short(key)} {_short(name)}"


def _add(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    key = chance.choice(list(ENTRIES))
    value[key] = copy.deepcopy(ENTRIES[key])
    return value, f"gets {_short(key)}"


def _scale(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    larger = [value * 10**power for power in (1, 3, 4, 6, 9)]
    new = chance.choice([value + 1, value - 1, value * 2, value // 2, -value, *larger])
    return new, f"becomes {_short(new)}"


def _edit(value: Any, tree: Any, chance: random.Random) -> tuple[Any, str]:
    middle = chance.randrange(len(value) + 1)
    new = chance.choice(
        [value[:middle], value * 2, value.upper(), value[:middle] + "\udfff" + value[middle:]]
    )
    return new, f"becomes {_short(new)}"


def _mutate_bytes(file: Path, chance: random.Random) -> str:
    data = bytearray(file.read_bytes())
    way = chance.choice(["bits", "bits", "bits", "cut", "longer", "zeros", "head"])
    start = chance.randrange(len(data))
    if way == "bits":
        for _ in range(chance.choice([1, 1, 4, 64])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == "cut":
        del data[start:]
    elif way == "longer":
        data += bytes(chance.choice([1, 1000]))
    elif way == "zeros":
        data[start : start + 100] = bytes(len(data[start : start + 100]))
    else:
        data[chance.randrange(min(len(data), 64))] = chance.randrange(256)
    file.write_bytes(data)
    return f"{way} at {start}"


def _values(tree: Any) -> Iterator[tuple[Place, Any]]:
    """Every value, containers too, and its place; the root's is empty. No recursion."""
    waiting: list[tuple[Place, Any]] = [((), tree)]
    while waiting:
        place, value = waiting.pop()
        yield place, value
        if isinstance(value, dict | list):
            waiting += [((*place, key), value[key]) for key in _keys(value)]


def _keys(value: Any) -> Any:
    return value.keys() if isinstance(value, dict) else range(len(value))


def _parent(tree: Any, place: Place) -> Any:
    for key in place[:-1]:
        tree = tree[key]
    return tree


def _short(value: Any) -> str:
    text = ascii(value) if not isinstance(value, list | dict) else f"{type(value).__name__}"
    return text if len(text) < 40 else f"{text[:36]}…"
