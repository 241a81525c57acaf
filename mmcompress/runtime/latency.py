"""How long one forward through every tower takes."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import check_split, inference
from mmcompress.inputs.files import Unreadable

MIN_ROUNDS = 5
MAX_ROUNDS = 200
PAUSE = 0.05
"""Seconds before each turn: the threads of the workload before it spin for a while when it is done,
in the hope of more work, and would take the processor from this one. After a rest all is asleep, so
a turn begins with a run that is not measured."""


def alternate(
    workloads: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """Median duration of each workload in seconds, all of them run in turn in this process.

    Taking turns spreads slow drift of the machine (heat, other programs) over all workloads
    alike. Each runs twice unmeasured first.

    Args:
        workloads: by name.
        seconds: about how long to measure; at least `MIN_ROUNDS` rounds, at most `MAX_ROUNDS`.
        clock: seconds, monotonic.
        sleep: lets seconds pass.
    """
    durations: dict[str, list[float]] = {name: [] for name in workloads}
    for run in [*workloads.values()] * 2:
        run()
    begin = clock()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and clock() - begin >= seconds:
            break
        for name, run in workloads.items():
            sleep(PAUSE)
            run()
            start = clock()
            run()
            durations[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in durations.items()}


def measure_latency(
    dense: Backbone,
    compressed: Backbone,
    data: PairData,
    split: str,
    *,
    no_speedup: str | None = None,
    batch_sizes: Sequence[int] = (1, 32),
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Latency of one batch of real pairs through every tower, dense and compressed in turn.

    Towers are timed one after the other and their medians added up, so that no tower drives another
    out of the processor's cache.

    Args:
        no_speedup: why the compressed model cannot be faster; it is then not measured.
        batch_sizes: pairs per forward: the first ones of the split, from the start again when it
            has fewer.
        seconds: about how long to measure at each batch size.
    Returns:
        `dense_ms` and `compressed_ms` (None when not measured): batch size as a string → median
        in milliseconds; `dense_pairs_per_s` and `compressed_pairs_per_s`: the throughput that
        follows; `threads`, `runtime`, `no_speedup`.
    Raises:
        ValueError: an unknown split, or no batch of at least one pair.
    """
    check_split(data, split)
    if not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"batch_sizes={list(batch_sizes)} must hold whole numbers from 1")
    models = {"dense": dense}
    if no_speedup is None:
        models["compressed"] = compressed
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    gc.collect()  # what the stages before have left
    with inference(dense), inference(compressed):
        for size in batch_sizes:
            batch = first_pairs(data, split, size)
            passes = {name: _passes(model, batch) for name, model in models.items()}
            for part in passes["dense"]:
                workloads = {name: passes[name][part] for name in models}
                medians = alternate(workloads, seconds=seconds / len(passes["dense"]))
                for name in models:
                    milliseconds = found[name].get(str(size), 0.0) + 1e3 * medians[name]
                    found[name][str(size)] = milliseconds
    return {
        "dense_ms": found["dense"],
        "compressed_ms": found.get("compressed"),
        "dense_pairs_per_s": _throughput(found["dense"]),
        "compressed_pairs_per_s": _throughput(found["compressed"]) if no_speedup is None else None,
        "threads": torch.get_num_threads(),
        "runtime": _runtime(compressed),
        "no_speedup": no_speedup,
    }


def _throughput(latency: Mapping[str, float]) -> dict[str, float]:
    """Batch size → pairs per second, from its latency in milliseconds."""
    return {size: 1e3 * int(size) / milliseconds for size, milliseconds in latency.items()}


def first_pairs(data: PairData, split: str, size: int) -> dict[str, Tensor]:
    """A batch of the first readable pairs of a split, from the start again when it has fewer."""
    pairs = data.splits[split]
    items = (pairs[i % len(pairs)] for i in itertools.count())
    readable = (item for item in items if not isinstance(item, Unreadable))
    return data.collate(list(itertools.islice(readable, size)), captions="first")


def _passes(backbone: Backbone, batch: Mapping[str, Tensor]) -> dict[str, Callable[[], None]]:
    device = next(backbone.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items() if torch.is_tensor(value)}

    def to_the_end(run: Callable[[], object]) -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    timed = [one for one in backbone.passes() if one.timed]
    return {one.name: partial(to_the_end, partial(one.run, inputs)) for one in timed}


def _runtime(backbone: Backbone) -> str:
    parameter = next(backbone.parameters())
    dtype = str(parameter.dtype).removeprefix("torch.")
    return f"torch eager {dtype} on {parameter.device.type}"
