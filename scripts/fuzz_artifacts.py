"""Load mutants of the artifacts under tests/fixtures, and of some that are written anew.

Each has right checksums again.

    python scripts/fuzz_artifacts.py 2500

A mutant must be refused by an ArtifactError, or load and be inspected, within 2 seconds of work and
300 MB above the model, without a network and without running code from the folder.
"""

import argparse
import builtins
import contextlib
import io
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mutants import MARKER, make_mutant, replace_everywhere, write_manifest

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "artifacts_0_1"
SOURCES = [
    *["all_encoded", "stack_lowrank_2_4_int4", "recipe_minivit", "recipe_hashed_embedding"],
    *["family_hf_clip", "family_hf_siglip2", "family_hf_clap", "family_hf_vit_bert"],
    *["family_hf_text_bert", "family_llava", "family_mlp", "family_open_clip_vit_bert"],
    *["family_open_clip_coca", "family_open_clip_vit_mt5"],
]

WRITTEN = {
    "hf/clip": "lowrank_int8",
    "open_clip/vit_bert": "deep",
    "llava": "int4",
    "hf/clap": "vq",
    "mlp": "entropy",
}
"""Family → recipe of artifacts in the present format."""

SECONDS, MEGABYTES = 2.0, 300
"""Most that a mutant may take: processor time, and memory above the model's."""

HANG = 60
"""Seconds after which the process that loads is given up."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        seed: that made it.
        source: name of the artifact it was made of.
        change: what was changed.
        said: the error; empty when it loaded.
        faults: what is wrong with that; empty when nothing is.
        seconds: of the processor.
        megabytes: highest use of memory, less that of the model.
    """

    seed: int
    source: str
    change: str
    said: str
    faults: list[str]
    seconds: float
    megabytes: float


def fuzz(seeds: Iterator[int] | range) -> Iterator[Outcome]:
    """Make, load and judge mutants in another process, which is started anew when it hangs."""
    context = multiprocessing.get_context("spawn")
    os.environ.pop("HF_HUB_OFFLINE", None)  # the network is blocked, not asked to stay away
    child = None
    with tempfile.TemporaryDirectory() as place:
        sources = [FIXTURES / name / "artifact" for name in SOURCES] + _write(
            Path(place, "written")
        )
        for seed in seeds:
            if child is None:
                ours, theirs = context.Pipe()
                child = context.Process(target=_serve, args=(theirs, sources), daemon=True)
                child.start()
                ours.recv()  # its imports count for no mutant, however busy the machine is
            source = sources[seed % len(sources)]
            folder = Path(place, str(seed), "artifact")
            change = make_mutant(source, folder, seed)
            ours.send((str(folder), str(source), seed % 2 == 0))
            try:
                found = ours.recv() if ours.poll(HANG) else {"faults": [f"takes over {HANG} s"]}
            except EOFError:
                found = {"faults": ["ends the process"]}
            if "seconds" not in found:
                child.kill()
                child.join()
                child = None
                found |= {"said": "", "seconds": float(HANG), "megabytes": 0.0}
            if (folder / MARKER).exists():
                found["faults"].append("runs code from the folder")
            yield Outcome(seed, source.parent.name, change, **found)
        if child is not None:
            ours.send(None)
            child.join()


def _write(place: Path) -> list[Path]:
    """Artifacts in the present format."""
    from mmcompress.testing.contract import build_recipe
    from mmcompress.testing.zoo.families import FAMILIES
    from mmcompress.testing.zoo.family import batch_of

    found = []
    for family, recipe in WRITTEN.items():
        folder = place / f"{family.replace('/', '_')}_{recipe}"
        (folder / "model").mkdir(parents=True)
        backbone = FAMILIES[family].build(folder / "model")
        build_recipe(recipe).apply(backbone, [batch_of(backbone)]).save(folder / "artifact")
        found.append(folder / "artifact")
    return found


def _serve(connection: Connection, sources: list[Path]) -> None:
    """Load what the other end names, one folder after the other, until it names none."""
    asked = _block_network()
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    for source in sources:  # what libraries load once is no mutant's memory
        _load(source)
    connection.send("ready")
    while (job := connection.recv()) is not None:
        folder, source, fit = Path(job[0]), Path(job[1]), job[2]
        if fit:
            _fit(folder, source)
        asked.clear()
        connection.send(_judge(folder, asked))


def _judge(folder: Path, asked: list[str]) -> dict[str, Any]:
    from mmcompress.format.errors import ArtifactError

    faults: list[str] = []
    said, model = "", 0.0
    Path("/proc/self/clear_refs").write_text("5")  # the highest use starts anew
    before, start = _memory("VmRSS"), time.process_time()
    try:
        model = _load(folder)
    except ArtifactError as error:
        said = str(error)
        if "\n" in said or not said.isprintable() or len(said) > 2000:
            faults.append("says so in no one sentence")
    except BaseException as error:  # some are no Exception
        said = f"{type(error).__name__}: {error}"
        faults.append(f"raises {type(error).__name__}")
    seconds, megabytes = time.process_time() - start, _memory("VmHWM") - before - model
    if seconds > SECONDS:
        faults.append(f"takes {seconds:.1f} s")
    if megabytes > MEGABYTES:
        faults.append(f"takes {megabytes:.0f} MB above the model")
    faults += [f"asks for {what}" for what in asked]
    return {"said": said, "faults": faults, "seconds": seconds, "megabytes": megabytes}


def _load(folder: Path) -> float:
    """Load and inspect an artifact; megabytes of its model."""
    from rich.console import Console

    from mmcompress.artifact.folder import Artifact
    from mmcompress.report.console import print_ledger

    artifact = Artifact.load(folder)
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    print_ledger(artifact.ledger(), console=Console(file=output, width=120))
    output.flush()
    tensors = [*artifact.backbone.model.parameters(), *artifact.backbone.model.buffers()]
    return sum(tensor.nbytes for tensor in tensors) / 2**20


def _fit(folder: Path, source: Path) -> None:
    """State the tensors of the model that the mutant describes, wherever it states those of before.

    So that not all that changes a shape ends at the one check of names and shapes.
    """
    from mmcompress.artifact.load import describe_tensors, read_manifest, read_skeleton
    from mmcompress.artifact.skeleton import build_skeleton
    from mmcompress.format.manifest import MANIFEST_FILE
    from mmcompress.format.version_2 import fingerprint, with_files

    path = folder / MANIFEST_FILE
    before = fingerprint(describe_tensors(read_skeleton(source, read_manifest(source))))
    with contextlib.suppress(BaseException):  # not to be built; `_load` says how it ends
        old = json.loads(path.read_bytes())
        built = build_skeleton(with_files(old, path), folder, path=path, on_meta=True)
        replace_everywhere(old, before, fingerprint(describe_tensors(built)))
        write_manifest(old, folder)


def _block_network() -> list[str]:
    """Hosts that are asked for from now on, and questions to the user."""
    asked: list[str] = []

    def refuse(*args: Any, **_: Any) -> Any:
        asked.append(f"the network {args[:2]}")
        raise OSError("the network is blocked")

    def answer(question: object = "") -> str:
        asked.append(f"an answer to {str(question)[:80]!r}")
        return "y"

    socket.getaddrinfo = refuse
    socket.create_connection = refuse
    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = refuse  # type: ignore[method-assign,assignment]
    builtins.input = answer
    return asked


def _memory(field: str) -> float:
    """Megabytes, by the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{field} is not in /proc/self/status")


def main() -> None:
    """Print each fault, and a summary; a fault ends with code 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("mutants", type=int, nargs="?", default=500)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutant")
    parser.add_argument("--json", type=Path, help="gets a line for each mutant")
    args = parser.parse_args()
    start, outcomes = time.monotonic(), []
    for outcome in fuzz(range(args.first, args.first + args.mutants)):
        outcomes.append(outcome)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps(vars(outcome)) + "\n")
        if outcome.faults:
            where = f"{outcome.seed} {outcome.source}: {outcome.change}"
            print(f"{where}: {outcome.faults} {outcome.said[:300]!r}", flush=True)
    faulty = sum(bool(outcome.faults) for outcome in outcomes)
    print(
        f"{len(outcomes)} mutants in {time.monotonic() - start:.0f} s: "
        f"{sum(not outcome.said for outcome in outcomes)} loaded, {faulty} with faults, "
        f"slowest {max(o.seconds for o in outcomes):.2f} s, "
        f"largest {max(o.megabytes for o in outcomes):.0f} MB above the model"
    )
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
