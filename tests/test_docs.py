"""README and docs say what is true: links lead somewhere, commands compose, names exist."""

import re
import shlex
from pathlib import Path
from pkgutil import resolve_name

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mmcompress.config.compose import compose_config

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"  # which commands write
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted(
        [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    )
    if RESULTS not in path.parents
}
PATHS = {"mmcompress", "conf", "scripts", "tests", "examples", "docs"}
SENTENCES = (
    "it is beside three of ten",
    "the more the smaller",
    "but Python code and tokenizer, as for ours",
    "where the answer hangs on it",
    "a tenth of a point is three queries",
)


def quoted(text: str) -> list[str]:
    """What stands in backticks within a line."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


def commands(text: str) -> list[list[str]]:
    """The words of each command line that takes overrides of `train.py`."""
    lines = re.sub(r"\\\n\s*", " ", text).split("\n")
    found = [
        re.search(r"(?:python train\.py|mmcompress (?:targets|evaluate))\b.*", x) for x in lines
    ]
    # A command within a sentence ends with its backtick.
    return [shlex.split(m[0].split("`")[0], comments=True) for m in found if m]


def overrides(words: list[str]) -> list[str]:
    """The overrides among the words; of a sweep the first choice of each.

    Those of Hydra itself are left out: launchers are plugins that not everyone has.
    """
    given = [word for word in words if re.match(r"[+~\w]", word) and "=" in word]
    parsed = OverridesParser.create().parse_overrides(given)
    return [
        f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else word
        for word, override in zip(given, parsed, strict=True)
        if not word.startswith("hydra")
    ]


COMMANDS = sorted({tuple(words) for text in PAGES.values() for words in commands(text)})


def test_readme_is_short() -> None:
    assert len(PAGES["README.md"].split()) <= 1500


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    targets = [link.partition("#")[0] for link in links if not re.match(r"\w+:|#", link)]
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    files = [
        word
        for word in quoted(PAGES[page])
        if word.split("/")[0] in PATHS and re.fullmatch(r"[\w./*-]+/[\w./*-]*", word)
    ]
    assert [file for file in files if not any(ROOT.glob(file.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES)
def test_python_names_exist(page: str) -> None:
    for word in quoted(PAGES[page]):
        if name := re.match(r"(?:mmcompress|mmc)((?:\.\w+)+)(?=$|\()", word):
            resolve_name(f"mmcompress{name[1]}")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_compose(words: tuple[str, ...]) -> None:
    if "--config-dir" in words:
        pytest.skip("its configuration is the reader's own")
    if "sweep=optuna_pareto" in words:
        pytest.importorskip("optuna", reason='needs pip install "mmcompress[sweep]"')
    assert compose_config(*overrides(list(words))).seed in (0, 1, 2)


@pytest.mark.parametrize("page", PAGES)
def test_no_riddles(page: str) -> None:
    assert [riddle for riddle in SENTENCES if riddle in " ".join(PAGES[page].split())] == []
