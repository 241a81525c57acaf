"""Text of users, in every encoding that editors write."""

from pathlib import Path

import pytest

from mmcompress.data.prompts import names_of, read_names, read_templates, templates_of
from mmcompress.data.text import decoded, open_text, read_text

TEXT = "café\nnaïve\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_text(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(TEXT.encode(encoding))
    assert read_text(file) == TEXT
    with open_text(file) as lines:
        assert list(lines) == ["café\n", "naïve\n"]


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("latin-1", "LATIN1"),
    ],
)
def test_other_encodings_are_refused_with_the_fix(
    encoding: str, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(TEXT.encode(encoding))
    fix = rf"{file} is .*convert it with iconv -f {named} -t UTF-8 {file} > NEW$"
    with pytest.raises(ValueError, match=fix):
        read_text(file)
    with pytest.raises(ValueError, match=fix), open_text(file) as lines:
        list(lines)


def test_one_nul_is_not_taken_for_another_encoding() -> None:
    assert decoded(b"a cat\0 on a mat", "a.txt") == "a cat\0 on a mat"
    assert decoded(b"", "a.txt") == ""


def test_class_names_and_templates_of_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Windows editors write them; a name may hold braces."""
    names, templates = tmp_path / "classnames.txt", "zeroshot_classification_templates.txt"
    names.write_bytes(b"\xef\xbb\xbfcat\r\n{dog}\r\n\r\nbird 100%\r\n\r\n")
    (tmp_path / templates).write_bytes(b"\xef\xbb\xbfa photo of a {c}.\r\n{{a}} {c}\r\n")
    assert read_names(tmp_path) == ["cat", "{dog}", "bird 100%"]
    assert caplog.messages == [f"{names}: left out line 3, which is empty"]
    found = read_templates(tmp_path)
    assert [t.format("{dog}") for t in found] == ["a photo of a {dog}.", "{a} {dog}"]


@pytest.mark.parametrize(
    "template",
    ["a cat", "a {photo} of {}", "{0}", "{name}", "{} {}", "{", "}", "a {} {", "{!r}", "{:>9}", 7],
)
def test_templates_with_other_braces(template: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"template .* must hold \{\} once, for the class name"):
        templates_of([template])  # type: ignore[list-item]
    file = tmp_path / "zeroshot_classification_templates.txt"
    file.write_text(f"{template}\n")
    with pytest.raises(ValueError, match=rf"{file}: template .* must hold \{{\}} once"):
        read_templates(tmp_path)


@pytest.mark.parametrize("name", [True, 7, None, 1.0, "", " ", ["tench", "Tinca tinca"]])
def test_class_names_that_are_no_texts(name: object) -> None:
    """What YAML makes of `yes`, `007`, `null`, `1.0`: the Speech Commands have a class `no`."""
    with pytest.raises(ValueError, match=r"data.class_names holds .*put names in quotation marks"):
        names_of(["cat", name])
    assert names_of(("cat", "7")) == ["cat", "7"]
    with pytest.raises(ValueError, match="'cat' must be a list of names"):
        names_of("cat")
