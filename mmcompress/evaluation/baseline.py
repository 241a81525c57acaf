"""The dense model's scores, measured once per content and kept in the user cache directory."""

import hashlib
import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from torch import Tensor

from mmcompress.artifact.dense import dense_checksum
from mmcompress.backbones.base import Backbone
from mmcompress.data.base import PairData
from mmcompress.data.examples import EXAMPLES
from mmcompress.evaluation.base import Comparison, Evaluator, check_split
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.functional.score import Score
from mmcompress.records.numerics import NUMERICS
from mmcompress.system.files import set_aside, write_json

log = logging.getLogger(__name__)


def dense_baseline(
    backbone: Backbone,
    data: PairData,
    evaluators: Mapping[str, Evaluator | Comparison],
    split: str,
    *,
    checksum: str | None = None,
    reference: Backbone | None = None,
    cache_dir: Path | None = None,
) -> dict[str, float]:
    """`evaluate` of the dense backbone, read back when the same content was scored before.

    Call it before the recipe edits the backbone.

    Args:
        checksum: `dense_checksum` of the model, where it is known.
        reference: what a `Comparison` compares with; the backbone itself when None.
        cache_dir: where `<key>.json` files lie; `baselines` in the user cache directory when None.
    Returns:
        Metric name → value.
    """
    check_split(data, split)
    folder = cache_dir or platformdirs.user_cache_path("mmcompress") / "baselines"
    key = content_key(backbone, data, evaluators, split, checksum=checksum, reference=reference)
    path = folder / f"{key}.json"
    which = "dense" if reference is None else "float16"
    cached = _read(path, key)
    if cached is not None:
        log.info("%s baseline: read from the cache", which)
        log.debug("it lies in %s", path)
        return cached
    metrics = evaluate(backbone, data, evaluators, split, dense=reference or backbone)
    log.info("%s baseline: measured", which)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        told = {"metrics": metrics, "scores": _scores_of(metrics)}
        write_json(path, {"key": key, **told, "sha256": _checksum(key, told)})
    except OSError as error:
        log.warning("dense baseline: not kept for later runs (%s)", error)
    return metrics


def content_key(
    backbone: Backbone,
    data: PairData,
    evaluators: Mapping[str, Evaluator | Comparison],
    split: str,
    *,
    checksum: str | None = None,
    reference: Backbone | None = None,
) -> str:
    """SHA-256 over all that the scores depend on, hexadecimal.

    Weights and their names, the adapter and its spec, the split's inputs as the encoders get them
    (so preprocessing and tokenizer count), labels and prompts, the evaluators and their config,
    the device, the versions of torch and transformers.
    """
    digest = hashlib.sha256()
    _add(
        digest,
        NUMERICS,
        version("torch"),
        version("transformers"),
        str(next(backbone.parameters()).device),
        backbone.adapter,
        backbone.spec,
        split,
        data.eval_batch_size,
        {name: [type(e).__qualname__, vars(e)] for name, e in evaluators.items()},
    )
    _add(digest, checksum or dense_checksum(backbone.model))
    _add(digest, reference and dense_checksum(reference.model))
    for batch in data.eval_dataloader(split):
        _add(digest, *(batch[modality] for modality in sorted(batch)))
    if data.backbone.reads_examples:
        for batch in data.example_dataloader(split):
            _add(digest, *(example.answers for example in batch[EXAMPLES]))
    for name, labeled in data.classifications(split).items():
        _add(digest, name, list(labeled.class_names), list(labeled.templates), labeled.names)
        for batch in data.loader(labeled.dataset):
            _add(digest, *(batch[modality] for modality in sorted(batch)))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", *values: object) -> None:
    for value in values:
        if isinstance(value, Tensor):
            _add(digest, [str(value.dtype), list(value.shape)])
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        else:
            # A line break ends each value: two neighbors cannot run into one another.
            digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")


def _read(path: Path, key: str) -> dict[str, float] | None:
    """The metrics in a cache file; None when there is none, or none that can be trusted."""
    try:
        stored = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("dense baseline: %s cannot be read (%s), measuring again", path, error)
        return None
    except (ValueError, RecursionError) as error:
        set_aside(path, error, "the dense model is scored again")
        return None
    metrics = _metrics_in(stored, key)
    if metrics is None:
        set_aside(path, "it is not what was written", "the dense model is scored again")
    return metrics


def _scores_of(metrics: Mapping[str, float]) -> dict[str, Any]:
    """What each item adds to a metric, for the metrics that know: paired intervals need it."""
    return {
        name: {"parts": _short(score.parts), "facts": score.facts}
        for name, score in metrics.items()
        if isinstance(score, Score)
    }


def _short(parts: np.ndarray) -> list[Any]:
    """Counts as whole numbers; sums of losses as they are."""
    whole = parts.astype(int)
    return (whole if (whole == parts).all() else parts).tolist()


def _metrics_in(stored: Any, key: str) -> dict[str, float] | None:
    """The metrics that a cache file holds; None when it is not what was written."""
    if not isinstance(stored, dict):
        return None
    metrics, scores = stored.get("metrics"), stored.get("scores")
    if not isinstance(metrics, dict) or not isinstance(scores, dict):
        return None
    if stored.get("sha256") != _checksum(key, {"metrics": metrics, "scores": scores}):
        return None
    found = {name: Score(**kept) for name, kept in scores.items()}
    if any(metrics.get(name) != score for name, score in found.items()):
        return None  # by a version that kept whole numbers alone
    return metrics | found


def _checksum(key: str, told: Mapping[str, Any]) -> str:
    """SHA-256 of what a cache file says, hexadecimal."""
    digest = hashlib.sha256()
    _add(digest, key, told)
    return digest.hexdigest()
