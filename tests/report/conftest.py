"""Run records as files hold them, and as `read_records` gives them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmcompress.artifact.ledger import LedgerRow
from mmcompress.records.numerics import NUMERICS
from mmcompress.records.read import parse
from mmcompress.records.schema import Record

DENSE_BYTES = 20_000_000

MakeRecord = Callable[..., dict[str, Any]]


def make_record(
    *steps: str,
    ratio: float = 4.0,
    recall: float = 0.87,
    seed: int = 0,
    accuracy: float | None = 0.5,
    **settings: Any,
) -> dict[str, Any]:
    """What the file of a finished run holds; dense: 88 % and 60 %.

    Args:
        *steps: each with the same `settings`.
    """
    zeroshot = {} if accuracy is None else {"zeroshot/acc@1": accuracy}
    return {
        "status": "finished",
        "seed": seed,
        "command": f"python train.py compression={'_'.join(steps)} seed={seed}",
        "config_hash": "0123456789abcdef",
        "git_commit": None,
        "config": {
            "seed": seed,
            "run_dir": f"runs/{'-'.join(steps)}-{seed}",
            "backbone": {"_target_": "mini"},
            "data": {"_target_": "openmoji", "seed": seed},
            "compression": {"steps": {step: dict(settings) for step in steps}},
            "evaluation": {"split": "test"},
        },
        "metrics": {
            "dense": {"retrieval/mean_recall": 0.88, "zeroshot/acc@1": 0.6},
            "compressed": {"retrieval/mean_recall": recall} | zeroshot,
        },
        "size": {
            "dense_bytes": DENSE_BYTES,
            "artifact_bytes": round(DENSE_BYTES / ratio),
            "compression_ratio": ratio,
            "bits_per_weight": 32 / ratio,
            "dense_dtype": "float32",
            "by_modality": {"image": 2, "text": 1},
            "coverage": dict.fromkeys(steps, 0.98),
            "by_part": {"vision_tower": 2, "text_tower": 1},
            "coverage_by_part": {step: {"vision_tower": 1.0, "text_tower": 0.9} for step in steps},
        },
        "latency": {
            "dense_ms": {"1": 9.0, "32": 66.0},
            "compressed_ms": {"1": 6.0, "32": 33.0},
            "dense_pairs_per_s": {"32": 484.8},
            "compressed_pairs_per_s": {"32": 969.7},
            "threads": 2,
            "runtime": "torch eager float32 on cpu",
            "no_speedup": None,
        },
        "timings": {"total_s": 60.0},
        "numerics": NUMERICS,
    }


def as_record(content: Mapping[str, Any], folder: str = "runs/one") -> Record:
    """What is read from a file with that content."""
    return parse(content, Path(folder))


def make_cast() -> dict[str, Any]:
    """The dense model of `make_record` in float16: 87.9 %, half the bytes, and less when coded."""
    sizes = {"plain": 10_000_000, "coded": 8_000_000}
    return {"metrics": {"retrieval/mean_recall": 0.879, "zeroshot/acc@1": 0.6}} | {
        form: {
            "bytes": size,
            "compression_ratio": DENSE_BYTES / size,
            "bits_per_weight": 32 * size / DENSE_BYTES,
        }
        for form, size in sizes.items()
    }


@pytest.fixture(name="make_record", scope="session")
def _make_record() -> MakeRecord:
    return make_record


@pytest.fixture(name="make_cast", scope="session")
def _make_cast() -> Callable[[], dict[str, Any]]:
    return make_cast


@pytest.fixture(scope="session")
def ledger() -> list[LedgerRow]:
    """15,704 bytes."""
    how = "int4: 4 bits, groups of 64"
    q, note = ("image", "attn.q", "codes", 5000), f"{how}; quantize → pack"
    bias = ("image", "other", "dense", 350, "no weight", "dense", 100)
    return [
        LedgerRow("vision.layers.0.q.weight", *q, note, how, 10_000),
        LedgerRow("vision.layers.1.q.weight", *q, note, how, 10_000),
        LedgerRow("vision.layers.0.q.bias", *bias),
        LedgerRow("vision.layers.1.q.bias", *bias),
        LedgerRow("logit_scale", "shared", "other", "dense", 4, "no weight", "dense", 1),
        LedgerRow("manifest.json", "shared", "other", "manifest", 5000, "how to read it"),
    ]
