"""What recipes and methods say of themselves, without importing a method, and so without torch.

Everything is written once and read here: a recipe's idea is the first comment of its YAML file, a
method's settings stand in its constructor's signature and under `Args:` in its docstring. The last
sentence there may say which values are legal: `Legal: whole number from 2 to 8, or null.`
"""

import ast
import difflib
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmcompress.compression.selectors import SELECTORS
from mmcompress.config.comments import idea_of
from mmcompress.records.settings import family
from mmcompress.system.locations import project_path

REQUIRED = "required"
"""The default of a setting that has none."""

HANDS_SELECTORS_ON = "selectors"
"""Name of a constructor's `**` argument that hands nothing but these on to its parents; any other
name hands on whatever the parents take."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, which is faster, where PyYAML was built with it."""

PAPER = re.compile(r'"([^"]+)",? ([^":;]*?\d{4})[,:] arXiv:(\d{4}\.\d{4,5})')
"""Title, authors with year, number."""

LEGAL = "Legal:"
"""Before the legal values, at the end of what `Args:` says of a setting."""


@dataclass(frozen=True)
class Setting:
    """One argument of a method's constructor.

    Attributes:
        name: as in the YAML file.
        meaning: what it does, in words.
        legal: which values it may have, in words; empty where the docstring does not say.
        default: as it is written in the signature, `null` and `true` as in YAML; `REQUIRED` where
            there is none.
        value: as the recipe has it, in YAML; the default where it has none.
    """

    name: str
    meaning: str
    legal: str
    default: str
    value: str


@dataclass(frozen=True)
class StepCard:
    """One step of a recipe.

    Attributes:
        name: its key in the YAML file.
        target: full name of the class.
        summary: first line of the class's docstring.
        papers: title, authors, year and number on arXiv of each that its module's docstring cites.
        settings: in the order of the signature; those that select weights come last.
    """

    name: str
    target: str
    summary: str
    papers: tuple[str, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class RecipeCard:
    """One recipe.

    Attributes:
        name: `compression=NAME`.
        idea: first comment of the file, in one line.
        family: as in reports.
        steps: in their order.
    """

    name: str
    idea: str
    family: str
    steps: tuple[StepCard, ...]


def recipes(*folders: Path) -> dict[str, RecipeCard]:
    """All recipes by name, in the order of their names.

    Args:
        *folders: more folders of YAML files than `conf/compression`; they come first.
    """
    files = _files(folders)
    return {name: _recipe(files[name], files) for name in sorted(files)}


def recipe(name: str, *folders: Path) -> RecipeCard:
    """One of them.

    Raises:
        ValueError: there is none of that name; says which are near.
    """
    files = _files(folders)
    if name not in files:
        near = difflib.get_close_matches(name, files)
        choice = f"did you mean {' or '.join(near)}?" if near else "`mmcompress recipes` lists them"
        raise ValueError(f"there is no recipe {name!r}; {choice}")
    return _recipe(files[name], files)


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    return {
        path.stem: path
        for folder in reversed([*folders, project_path("conf") / "compression"])
        for path in folder.glob("*.yaml")
    }


def _recipe(path: Path, files: Mapping[str, Path]) -> RecipeCard:
    config = _read(path, files)
    steps = {n: s for n, s in (config.get("steps") or {}).items() if s is not None}
    return RecipeCard(
        name=path.stem,
        idea=idea_of(path),
        family=family({"compression": {"steps": steps}}),
        steps=tuple(_step(name, step) for name, step in steps.items()),
    )


def _read(path: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """A recipe's file over those that its `defaults` name."""
    own = yaml.load(path.read_text(encoding="utf-8"), LOADER) or {}
    merged: dict[str, Any] = {}
    for name in own.pop("defaults", []):
        if name != "_self_":
            merged = _over(merged, _read(files[name], files))
    return _over(merged, own)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; what stands above wins."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _over(old, value)
        else:
            merged[key] = value
    return merged


def _step(name: str, config: Mapping[str, Any]) -> StepCard:
    target = config["_target_"]
    found = settings_of(target)
    ordered = [s for s in found if s.name not in SELECTORS]
    ordered += [s for s in found if s.name in SELECTORS]
    settings = tuple(
        Setting(s.name, s.meaning, s.legal, s.default, _in_yaml(config[s.name]))
        if s.name in config
        else s
        for s in ordered
    )
    return StepCard(name, target, summary_of(target), papers_of(target), settings)


def summary_of(target: str) -> str:
    """First paragraph of a class's docstring, in one line.

    Args:
        target: full name of the class, `mmcompress.compression.pruning.wanda.Wanda`.
    """
    first = _docstring(_class_at(target)).partition("\n\n")[0]
    return " ".join(first.split())


def papers_of(target: str) -> tuple[str, ...]:
    """What the docstring of a class's module cites, one string for each paper on arXiv.

    Args:
        target: full name of the class.
    """
    text = " ".join((ast.get_docstring(_tree(target.rpartition(".")[0])) or "").split())
    found = PAPER.findall(text)
    return tuple(f"{title}, {authors}, arXiv:{number}" for title, authors, number in found)


def settings_of(target: str) -> list[Setting]:
    """Every argument that a class takes, with those that it hands on to its parents.

    Args:
        target: full name of the class.
    """
    lineage = list(_lineage(target))
    told: dict[str, str] = {}
    for _, node in reversed(lineage):
        told |= arguments_in(_docstring(node))
    found: dict[str, Setting] = {}
    handed_on = ""
    for module, node in lineage:
        maker = _constructor(node)
        if maker is None:
            continue
        for name, default in _parameters(maker, module):
            if handed_on == HANDS_SELECTORS_ON and name not in SELECTORS:
                continue
            meaning, _, legal = told.get(name, "").partition(LEGAL)
            setting = Setting(name, meaning.strip(), legal.strip().rstrip("."), default, default)
            found.setdefault(name, setting)
        if maker.args.kwarg is None:
            break
        handed_on = handed_on or maker.args.kwarg.arg
    return list(found.values())


def arguments_in(docstring: str) -> dict[str, str]:
    """What stands under `Args:`, by argument, each in one line.

    Example:
        >>> arguments_in("Title.\\n\\nArgs:\\n    a, b: two\\n        words.\\n    c: one.\\n")
        {'a': 'two words.', 'b': 'two words.', 'c': 'one.'}
    """
    section = re.search(r"^Args:\n((?:(?: +.*)?\n|\Z)+)", docstring + "\n", re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        start = re.match(r"    ([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2])
        elif re.match(r"    \S", line):  # such as `**selectors`
            names = []
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _lineage(target: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """Modules and nodes of the class and its parents, in our package or its own, as Python looks
    for methods: what several classes inherit comes after all of them."""
    ours = {"mmcompress", target.partition(".")[0]}
    found: dict[str, tuple[str, ast.ClassDef]] = {}

    def add(module: str, name: str) -> None:
        if module.partition(".")[0] not in ours:
            return
        node = _class_at(f"{module}.{name}")
        found.pop(f"{module}.{name}", None)
        found[f"{module}.{name}"] = module, node
        for base in node.bases:
            parent = ast.unparse(base).partition("[")[0]  # `ValueStep[FakeQuantize]`
            here = any(isinstance(n, ast.ClassDef) and n.name == parent for n in _tree(module).body)
            add(*((module, parent) if here else _imports(module).get(parent, ("", ""))))

    add(*target.rsplit(".", 1))
    yield from found.values()


@functools.cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module}: there is no such module: correct the _target_ that names it")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _class_at(target: str) -> ast.ClassDef:
    module, _, name = target.rpartition(".")
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise ValueError(f"{module} has no class {name}: correct the _target_ that names it")


@functools.cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """Imported name → (module, name there)."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def _docstring(node: ast.ClassDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node, clean=False) or "")


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return made[0] if made else None


def _parameters(maker: ast.FunctionDef, module: str) -> Iterator[tuple[str, str]]:
    """Names and defaults of what a constructor takes."""
    plain = maker.args.args[1:]
    missing: Sequence[None] = [None] * (len(plain) - len(maker.args.defaults))
    pairs = [*zip(plain, [*missing, *maker.args.defaults], strict=True)]
    pairs += zip(maker.args.kwonlyargs, maker.args.kw_defaults, strict=True)
    for argument, default in pairs:
        yield argument.arg, REQUIRED if default is None else _default(default, module)


def _default(node: ast.expr, module: str) -> str:
    """As in YAML where it is a constant or the name of one, else as in the source."""
    if isinstance(node, ast.Name):
        node = _constant(node, module)
    try:
        return _in_yaml(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _constant(name: ast.Name, module: str) -> ast.expr:
    """What a name stands for that a module assigns or imports; the name itself if it does not."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name.id:
            return node.value
    there, original = _imports(module).get(name.id, ("", ""))
    return _constant(ast.Name(original), there) if there else name


def _in_yaml(value: Any) -> str:
    """In one line, as it may stand in a YAML file."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
