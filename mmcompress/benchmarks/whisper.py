"""Every family on Whisper: word error rates and bytes, of a model tuned here and of the stock one.

Each row is one command `python train.py …`, and a run that has finished with the same settings is
not repeated. The dense model that the rows compress is tuned first, on the training split, and
exported as transformers stores it. Beside each row stands how often its tokens agree with those of
the dense model on sentences that neither was trained on.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmcompress.artifact.folder import Artifact, artifact_folder
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import generator
from mmcompress.backbones.hf.speech import from_pretrained
from mmcompress.benchmarks.methods import finished_run
from mmcompress.benchmarks.rows import run_missing
from mmcompress.benchmarks.sentences import spoken
from mmcompress.benchmarks.whisper_rows import ROWS, STOCK, TUNED, Row
from mmcompress.config.errors import in_one_sentence
from mmcompress.data.base import PairData
from mmcompress.data.examples import EXAMPLES
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.teacher_forced import TokenAgreement
from mmcompress.exports.targets import export
from mmcompress.records.environment import git_commit, hardware, versions
from mmcompress.records.schema import Record
from mmcompress.report.table import MEGABYTE
from mmcompress.system.files import write_atomically, write_json
from mmcompress.system.locations import project_path
from mmcompress.system.quiet import quiet_libraries

WER, ENTROPY = "transcription/wer", "teacher_forced/cross_entropy"
UTTERANCES, AGREEMENT = "transcription/utterance_acc", "agreement/tokens"
TIMED = 8
"""Sentences that the real-time factor is measured on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="shards: sounds and transcripts")
    parser.add_argument("--model", type=Path, required=True, help="a folder with a Whisper")
    parser.add_argument("--runs", type=Path, default=Path("runs/whisper"), help="run folders")
    parser.add_argument("--out", type=Path, help="folder for whisper.md and whisper.json")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--steps", type=int, default=100, help="of tuning the dense model")
    parser.add_argument("--only", nargs="+", help="names of rows; all by default")
    parser.add_argument("--of", choices=(TUNED, STOCK), help="which dense model; both by default")
    logging.basicConfig(format="%(message)s")
    quiet_libraries()
    benchmark(parser.parse_args())


@in_one_sentence
def benchmark(args: argparse.Namespace) -> None:
    """Every row of the table; what is done so far is in the folder after each of them."""
    rows = [
        row
        for row in ROWS
        if (not args.only or row.name in args.only) and args.of in (None, row.of)
    ]
    tuned = tune(args)
    dense = {TUNED: from_pretrained(str(tuned)), STOCK: from_pretrained(str(args.model))}
    sentences = spoken(args.runs / "sentences")
    results: list[dict[str, Any]] = []
    jobs = run_missing(
        rows,
        lambda row: finished_run(*command_line(args, row, tuned)),
        lambda row: run(*command_line(args, row, tuned)),
        title=lambda row: f"{row.name} ({row.of})",
    )
    for row, record in jobs:
        beside = beside_of(record, dense[row.of], sentences)
        results.append(result_of(row, record, beside))
        if args.out:
            write(args, results)
    print(to_markdown(results), end="")


def tune(args: argparse.Namespace) -> Path:
    """The folder of the tuned dense model, as transformers stores it."""
    folder = args.runs / f"dense_{args.steps}"
    settings = [f"trainer.max_steps={args.steps}", f"run_dir={folder}", "name=dense"]
    overrides = [*common(args, args.model), "compression=none", *settings, "evaluation.split=val"]
    if finished_run(folder, overrides) is None:
        run(folder, overrides)
    native = folder / "hf"
    if not native.exists():
        export(Artifact.load(artifact_folder(folder)), "hf", native)
    return native


def common(args: argparse.Namespace, model: Path) -> list[str]:
    """What all runs have in common."""
    return [
        "experiment=whisper",
        f"data.root={args.data}",
        f"backbone.name_or_path={model}",
        f"evaluation.split={args.split}",
    ]


def command_line(args: argparse.Namespace, row: Row, tuned: Path) -> tuple[Path, list[str]]:
    """The run folder, and the overrides of `train.py`."""
    name = re.sub(r"[^\w.]+", "_", row.name)
    folder = args.runs / row.of / args.split / name
    training = [] if row.steps else ["trainer=post_training"]
    model = tuned if row.of == TUNED else args.model
    own = [*training, *row.overrides, f"name='{row.name}'", f"run_dir={folder}"]
    return folder, [*common(args, model), *own]


def run(folder: Path, overrides: Sequence[str]) -> Record:
    """The record of a run that is made now."""
    command = [sys.executable, str(project_path("train.py")), *overrides, "logger=none"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    record = finished_run(folder, overrides)
    if done.returncode or record is None:
        raise ValueError(f"a run has failed: {' '.join(command)}")
    return record


def beside_of(record: Record, dense: Backbone, sentences: PairData) -> dict[str, float]:
    """Agreement with the dense model on the sentences, and the time that the artifact takes.

    Kept in a file beside the record, for what is stored gives the same again.
    """
    file = record.folder / "sentences.json"
    if file.is_file():
        return json.loads(file.read_bytes())
    backbone = Artifact.load(artifact_folder(record.folder)).backbone
    sentences.attach(backbone)
    found = evaluate(backbone, sentences, {"a": TokenAgreement()}, "test", dense=dense)
    beside = {AGREEMENT: float(found[AGREEMENT]), "real_time": real_time(backbone, sentences)}
    write_json(file, beside)
    return beside


def real_time(backbone: Backbone, sentences: PairData) -> float:
    """Processor seconds for each second of sound, of sentences that are heard one by one."""
    writer = generator(backbone, "the benchmark needs", "give a Whisper")
    batches = iter(sentences.example_dataloader("test"))
    examples = next(batches)[EXAMPLES][:TIMED]
    seconds = sum(len(e.sound.samples) / e.sound.rate for e in examples)
    with torch.inference_mode():
        writer.generate(examples[:1])
        start = time.process_time()
        for example in examples:
            writer.generate([example])
    return (time.process_time() - start) / seconds


def result_of(row: Row, record: Record, beside: Mapping[str, float]) -> dict[str, Any]:
    """One line of the table, as JSON."""
    assert record.size is not None
    told = {
        "family": row.family,
        "name": row.name,
        "of": row.of,
        "steps": row.steps,
        "overrides": list(row.overrides),
        "dense_bytes": record.size.dense_bytes,
        "bytes": record.size.artifact_bytes,
        "metrics": record.metrics.compressed,
        "dense": record.metrics.dense,
        "sentences": dict(beside),
        "seconds": sum(record.timings.values()),
    }
    entry = record.intervals.get(WER)
    return told | {"wer_delta": entry.delta if entry else None}


def write(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """`whisper.json` and `whisper.md`."""
    args.out.mkdir(parents=True, exist_ok=True)
    ran = {"split": args.split, "steps": args.steps, "versions": versions()}
    ran |= {"hardware": hardware(None), "commit": git_commit()}
    write_json(args.out / "whisper.json", ran | {"results": results})
    table = to_markdown(results).encode()
    write_atomically(args.out / "whisper.md", lambda file: file.write(table))


HEADER = (
    *("family", "method", "MB", "ratio", "WER (%)", "against dense, 95 %", "utterances (%)"),
    *("cross entropy", "change", "same tokens, other speech (%)", "real-time factor"),
)


def to_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """One table for each dense model."""
    text = ""
    for of in (TUNED, STOCK):
        found = [result for result in results if result["of"] == of]
        if found:
            rows = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2)), *map(_cells, found)]
            text += f"## {of.capitalize()} model\n\n"
            text += "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n\n"
    return text


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    metrics, dense, beside = result["metrics"], result["dense"], result["sentences"]
    low, high = result["wer_delta"] or (0.0, 0.0)
    trained = f", {result['steps']} steps" if result["steps"] else ""
    return (
        result["family"],
        result["name"] + trained,
        f"{result['bytes'] / MEGABYTE:.2f}",
        f"{result['dense_bytes'] / result['bytes']:.1f}x",
        f"{100 * metrics[WER]:.2f}",
        f"{100 * (metrics[WER] - dense[WER]):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]",
        f"{100 * metrics[UTTERANCES]:.1f}",
        f"{metrics[ENTROPY]:.4f}",
        f"{metrics[ENTROPY] - dense[ENTROPY]:+.4f}",
        f"{100 * beside[AGREEMENT]:.1f}",
        f"{beside['real_time']:.2f}",
    )
