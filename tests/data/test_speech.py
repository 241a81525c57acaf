"""Speech with transcripts: shards and tables, any sampling rate, and what cannot be heard."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcompress.data.examples import EXAMPLES
from mmcompress.data.table import Table
from mmcompress.data.webdataset import WebDataset
from mmcompress.testing.zoo.speech import build_whisper

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def flac(seconds: float, rate: int, seed: int = 0, kind: str = "FLAC") -> bytes:
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, int(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    said = {
        "a.flac": flac(0.5, 8000),
        "a.txt": b"four five\n",
        "b.flac": flac(0.8, 44100, seed=1),
        "b.txt": b"nine",
        "empty.wav": flac(0.0, 8000, kind="WAV"),
        "empty.txt": b"one",
        "untold.flac": flac(0.5, 8000),
        "silent.flac": flac(0.5, 8000),
        "silent.txt": b" \n",
    }
    for split in ("train", "val", "test"):
        write_shard(tmp_path / "data" / split / "0.tar", said)
    return tmp_path / "data"


def test_shards_at_any_rate_are_prepared_as_the_model_hears(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = WebDataset(root=str(root), eval_batch_size=8)
    data.attach(build_whisper())
    (batch,) = data.eval_dataloader("test")
    assert batch["input_features"].shape == (2, 8, 50)
    assert batch["labels"].shape[0] == 2
    (examples,) = data.example_dataloader("test")
    assert [example.answers for example in examples[EXAMPLES]] == [("four five",), ("nine",)]
    rates = {example.sound.rate for example in examples[EXAMPLES]}
    assert rates == {16000}
    assert "0.tar/untold: no .txt file" in caplog.text
    assert "it is empty" in caplog.text
    assert "no caption" in caplog.text


def test_a_table_of_paths_gives_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(flac(0.5, 8000))
    (tmp_path / "b.flac").write_bytes(flac(0.8, 44100, seed=1))
    table = tmp_path / "said.csv"
    table.write_text("path,transcript\na.flac,four five\nb.flac,nine\n")
    files = {"train": str(table), "val": str(table), "test": str(table)}
    found = []
    for data in (
        Table(files=files, caption_column="transcript", eval_batch_size=8),
        WebDataset(root=str(root), eval_batch_size=8),
    ):
        data.attach(build_whisper())
        found += list(data.eval_dataloader("test"))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_ten_minutes_end_a_run_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(flac(600, 8000))
    table = tmp_path / "said.csv"
    table.write_text("path,caption\na.flac,four five\na.flac,four five\n")
    data = Table(files={"train": str(table), "test": str(table), "val": str(table)})
    data.attach(build_whisper())
    with pytest.raises(ValueError, match=r"^the sound of 'four five' lasts 600.0 s and the model"):
        list(data.eval_dataloader("test"))
