"""`mmcompress recipes`: every recipe in one line, every setting of one."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mmcompress import cli
from mmcompress.compression.catalog import recipes
from mmcompress.config.compose import compose_config
from mmcompress.config.validation import check_settings
from mmcompress.report.recipes import example_of, show_recipes


def test_every_recipe_has_one_line_below_its_family(capsys: pytest.CaptureFixture) -> None:
    show_recipes()
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for name, card in recipes().items():
        assert any(re.fullmatch(rf"  {name} +{re.escape(card.idea)} *", line) for line in lines)
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert [heading.partition(",")[0] for heading in headings[:4]] == [
        *("Parameter sharing", "Low rank", "Pruning", "Quantization")
    ]
    quantized = printed.partition("Quantization, W' = Q(W)\n")[2].partition("\n\n")[0]
    assert {"int4", "gptq", "vq"} & set(quantized.split()) == {"int4", "gptq"}


def test_every_setting_of_every_step(capsys: pytest.CaptureFixture) -> None:
    show_recipes("magnitude_int4")
    printed = capsys.readouterr().out
    for words in [
        "compression.steps.magnitude ",
        "compression.steps.int4 ",
        "arXiv:1710.01878",
        "python train.py compression=magnitude_int4 compression.steps.magnitude.sparsity=",
    ]:
        assert words in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert rows["bits"][1:] == [
        "4",
        "whole",
        "number",
        "from",
        "2",
        "to",
        "8",
        "width",
        "of",
        "a",
        "code.",
    ]
    for step in ("magnitude", "int4"):
        for name in compose_config("compression=magnitude_int4").compression.steps[step]:
            assert name == "_target_" or name in rows


def test_for_programs(capsys: pytest.CaptureFixture) -> None:
    show_recipes("int4", as_json=True)
    found = json.loads(capsys.readouterr().out)
    bits = found["steps"][0]["settings"][0]
    assert (bits["name"], bits["value"], bits["legal"]) == ("bits", "4", "whole number from 2 to 8")
    show_recipes(as_json=True)
    assert {card["name"] for card in json.loads(capsys.readouterr().out)} == recipes().keys()


@pytest.mark.parametrize("name", recipes())
def test_examples_can_be_run(name: str) -> None:
    check_settings(compose_config(*shlex.split(example_of(recipes()[name]))[2:]), "compression")


def test_a_recipe_of_your_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "compression"
    folder.mkdir()
    (folder / "coarse.yaml").write_text(
        "# Q(W) in 3 bits.\ndefaults: [int4]\nsteps:\n  int4:\n    bits: 3\n"
    )
    cli.main(["recipes", "coarse", "--config-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.startswith("coarse Q(W) in 3 bits.\n")
    assert re.search(r"^bits +3 ", printed, re.MULTILINE)


def test_a_misspelt_name_ends_in_one_sentence() -> None:
    with pytest.raises(
        SystemExit, match=r"^error: there is no recipe 'lowrnk'; did you mean lowra"
    ):
        cli.main(["recipes", "lowrnk"])


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "deep"], ["recipes", "--json"]])
def test_it_waits_for_no_torch(words: list[str]) -> None:
    code = (
        f"import sys; from mmcompress import cli; cli.main({words}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
