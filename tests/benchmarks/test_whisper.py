"""The table of Whisper: its rows are runs that can be, and its lines say what was measured."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.utils import instantiate

from mmcompress.benchmarks import sentences
from mmcompress.benchmarks.whisper import command_line, to_markdown
from mmcompress.benchmarks.whisper_rows import ROWS, Row
from mmcompress.config.compose import compose_config
from mmcompress.testing.zoo.speech import build_whisper

ARGS = SimpleNamespace(data="d", model="m", split="val", runs=Path("r"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.of} {row.name}")
def test_a_row_is_a_run_that_can_be(row: Row) -> None:
    folder, overrides = command_line(ARGS, row, Path("tuned"))
    cfg = compose_config(*overrides)
    assert cfg.run_dir == str(folder)
    assert cfg.evaluation.split == "val"
    assert cfg.backbone.name_or_path == ("tuned" if row.of == "tuned" else "m")
    assert cfg.trainer.max_steps == row.steps
    names = [target.role for target in build_whisper().targets()]
    recipe = instantiate(cfg.compression)
    if recipe.steps and row.family != "none":
        assert "positions" in recipe.steps
    for step in recipe.steps.values():
        assert {t.role for t in step.select(step.candidates(build_whisper()))} <= {*names, "mlp"}


def test_no_two_rows_share_a_folder() -> None:
    folders = [command_line(ARGS, row, Path("t"))[0] for row in ROWS]
    assert len({*folders}) == len(folders)


def test_a_line_by_hand() -> None:
    def metrics(wer: float, entropy: float) -> dict[str, float]:
        return {
            "transcription/wer": wer,
            "transcription/utterance_acc": 0.95,
            "teacher_forced/cross_entropy": entropy,
        }

    result = {
        "family": "quantization",
        "name": "int8",
        "of": "tuned",
        "steps": 0,
        "bytes": 25_000_000,
        "dense_bytes": 150_000_000,
        "metrics": metrics(0.0125, 0.02),
        "dense": metrics(0.01, 0.015),
        "wer_delta": [-0.001, 0.004],
        "sentences": {"agreement/tokens": 0.987, "real_time": 0.123},
    }
    text = to_markdown([result])
    assert text.startswith("## Tuned model\n\n| family | method | MB | ratio |")
    line = (
        "| quantization | int8 | 25.00 | 6.0x | 1.25 | +0.25 [-0.10, +0.40] | 95.0 | 0.0200 | "
        "+0.0050 | 98.7 | 0.12 |"
    )
    assert line in text
    assert "## Stock" not in text


def test_without_a_speaker_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="apt-get install espeak-ng"):
        sentences.spoken(tmp_path)


def test_sentences_that_were_spoken_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def speak(sentence: str, file: Path) -> None:
        said.append(sentence)
        file.write_bytes(b"")

    monkeypatch.setattr(sentences, "_speak", speak)
    sentences.spoken(tmp_path)
    sentences.spoken(tmp_path)
    assert said == sentences.HARVARD
    assert len(said) == 30
