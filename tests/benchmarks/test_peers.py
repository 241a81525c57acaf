"""Other libraries come back from their own files as they were, and ours is compared honestly."""

import copy
import importlib.metadata
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.benchmarks.peers import benchmark
from mmcompress.benchmarks.peers.base import Peer
from mmcompress.benchmarks.peers.quanto import Quanto
from mmcompress.benchmarks.peers.towers import Served, Towers
from mmcompress.benchmarks.peers.verdict import Point, verdict_table, verdicts
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.objectives.objective import Objective
from mmcompress.report.summary import Spread
from mmcompress.training.module import CompressionModule, TrainingData

CASES = [
    ("quanto", "Quanto", {"bits": 8}),
    ("quanto", "Quanto", {"bits": 4, "hqq": True}),
    ("quanto", "Quanto", {"bits": 2}),
    ("torchao", "TorchAO", {"bits": 8}),
    ("torchao", "TorchAO", {"bits": 4, "hqq": True}),
    ("torchao", "TorchAO", {"bits": 2, "group_size": 32}),
    ("nncf", "NNCF", {"bits": 8}),
    ("nncf", "NNCF", {"bits": 4}),
    ("nncf", "NNCF", {"bits": 2, "group_size": 32}),
    ("torch_pruning", "TorchPruning", {"factor": 1.3}),
]


@pytest.fixture
def batches(tiny_data: PairData) -> list[dict[str, Tensor]]:
    return list(tiny_data.calibration_dataloader())


def build(module: str, name: str, settings: dict[str, Any], trained: bool) -> Any:
    """The peer; skips without its libraries."""
    kind = getattr(import_module(f"mmcompress.benchmarks.peers.{module}"), name)
    for package in kind.packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f'{package} is not installed: pip install "mmcompress[peers]"')
    return kind(**settings, trained=trained)


@pytest.fixture
def round_trip(
    tiny_backbone: HFClip, batches: list[dict[str, Tensor]], tmp_path: Path
) -> Callable[..., tuple[dict[str, Tensor], dict[str, Tensor], int]]:
    """Of a peer: embeddings as prepared and as reloaded, and how many parameters it covers."""

    def go(module: str, name: str, settings: dict[str, Any], trained: bool):
        peer = build(module, name, settings, trained)
        torch.manual_seed(0)
        towers = Towers(tiny_backbone).eval()
        peer.prepare(towers, batches)
        with torch.no_grad():
            before = {m: towers.encode(m, batches[0][m]) for m in towers.modalities}
        covered = peer.save(towers, batches, tmp_path)
        served = Served(peer.load(tmp_path, Towers.blank(tiny_backbone)))
        return before, {m: served.encode(m, batches[0][m]) for m in before}, covered

    return go


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize(("module", "name", "settings"), CASES)
def test_what_is_reloaded_is_the_compressed_model(
    module: str,
    name: str,
    settings: dict[str, Any],
    round_trip: Callable[..., Any],
    tiny_backbone: HFClip,
    batches: list[dict[str, Tensor]],
) -> None:
    _, after, covered = round_trip(module, name, settings, trained=False)
    parameters = sum(p.numel() for p in tiny_backbone.parameters())
    assert 0.5 * parameters < covered <= parameters
    for modality, embedded in after.items():
        cosine = (embedded * tiny_backbone.encode(modality, batches[0][modality])).sum(dim=1)
        assert torch.allclose(embedded.norm(dim=1), torch.ones(len(embedded)))
        # Random weights survive 8 and 4 bits; at 2 bits or pruned they need not.
        assert cosine.min() > {8: 0.999, 4: 0.9}.get(settings.get("bits", 0), -1)


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize(
    ("module", "name", "settings"),
    [
        ("quanto", "Quanto", {"bits": 4}),
        ("torchao", "TorchAO", {"bits": 8}),
        ("torchao", "TorchAO", {"bits": 4}),
        ("torchao", "TorchAO", {"bits": 2, "group_size": 32}),
        ("nncf", "NNCF", {"bits": 8}),
        ("nncf", "NNCF", {"bits": 4, "lora_rank": 4}),
        ("torch_pruning", "TorchPruning", {"factor": 1.3}),
    ],
)
def test_what_is_trained_is_what_is_stored(
    module: str, name: str, settings: dict[str, Any], round_trip: Callable[..., Any]
) -> None:
    before, after, _ = round_trip(module, name, settings, trained=True)
    for modality, expected in before.items():
        cosine = (after[modality] * expected).sum(dim=1)
        # Scales, norms and biases are float16 in the file.
        assert cosine.min() > 0.998


def test_the_skeleton_holds_no_weight(tiny_backbone: HFClip) -> None:
    blank = Towers.blank(tiny_backbone)
    assert all(p.isnan().all() for p in blank.parameters())
    served = Served({"text": blank.text})
    with pytest.raises(ValueError, match="not finite"):
        served.encode("text", torch.zeros(1, 4, dtype=torch.long))


def test_towers_score_and_train_like_the_backbone(
    tiny_backbone: HFClip, tiny_data: PairData
) -> None:
    towers = Towers(tiny_backbone).eval()
    evaluators = {"retrieval": Retrieval(), "zeroshot": ZeroShot()}
    served: Any = Served({m: getattr(towers, m) for m in Towers.modalities})
    expected = evaluate(tiny_backbone, tiny_data, evaluators, "val")
    assert evaluate(served, tiny_data, evaluators, "val") == expected

    theirs, ours = Towers(tiny_backbone), copy.deepcopy(tiny_backbone)
    start = copy.deepcopy(theirs.image.state_dict())
    for student in (theirs, ours):
        train(student, copy.deepcopy(tiny_backbone), tiny_data)
    moved = theirs.image.encoder.state_dict()
    for name, weight in ours.model.vision_model.state_dict().items():
        assert torch.equal(moved[name], weight)
    assert not torch.equal(start["projection.weight"], theirs.image.projection.weight)


def train(student: Any, teacher: HFClip, data: PairData) -> None:
    """Two steps."""
    pl.seed_everything(0, verbose=False)
    module = CompressionModule(
        Recipe().restore(student, {}),
        Objective(feature=1.0),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        teacher=teacher,
    )
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, TrainingData(data))


def test_ours_must_be_as_accurate_and_half_the_bytes() -> None:
    def point(name: str, size: float, value: float, graph: float = 0.0) -> Point:
        return Point(name, size, Spread(value, None, 1), graph)

    ours = [point("tiny", 1e6, 0.91), point("exact", 2e6, 0.93)]
    peers = [
        point("worst", 1e6, 0.90),
        point("int2", 2e6, 0.912),
        point("graphic", 2.1e6, 0.91, graph=0.2e6),
        point("int4", 3e6, 0.92),
        point("int8", 5e6, 0.932),
        point("better", 9e6, 0.95),
    ]
    found = {v.peer.name: v for v in verdicts(peers, ours, dense=0.93)}
    assert list(found) == ["better", "int8", "int4", "int2", "graphic"]
    assert found["better"].ours is None
    assert not found["better"].holds
    assert found["int8"].ours is None
    assert (found["int4"].ratio, found["int4"].holds) == (1.5, False)
    assert found["int2"].ours == ours[1]
    assert (found["graphic"].holds, found["graphic"].holds_without_graph) == (True, False)
    lines = verdict_table(list(found.values())).splitlines()
    assert lines[2].endswith("| no: none of ours is as accurate |")
    assert lines[6] == (
        "| graphic | 91.0 | 2.10 | tiny | 91.0 | 1.00 | 2.10 "
        "| yes, but not if its graph (.xml) is left out |"
    )


def test_a_library_that_fails_stands_in_the_table(tiny_backbone: HFClip) -> None:
    class Broken(Peer):
        library, packages, name, trained, saved = "broken", (), "int1", False, "nothing"

        def prepare(self, towers: Any, batches: Any) -> None:
            raise RuntimeError("no kernel\nfor int1")

        def save(self, towers: Any, batches: Any, folder: Path) -> int:
            raise AssertionError

        def load(self, folder: Path, blank: Any) -> Any:
            raise AssertionError

    data = SimpleNamespace(calibration_dataloader=lambda: [])
    scores = {"retrieval/mean_r@1": 0.5, "zeroshot/subgroup_acc@1": 0.5}
    bench = benchmark.Bench(None, "val", tiny_backbone, scores, data, {})
    result = benchmark.row(Broken(), 0, bench)
    assert result["error"] == "RuntimeError: no kernel for int1"
    line = benchmark.results_table([result], scores, 100).splitlines()[-1]
    assert line.startswith("| broken | int1 | no | – |")
    assert line.endswith("| RuntimeError: no kernel for int1 |")


def test_only_equal_settings_have_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = SimpleNamespace(split="val", metrics={"a": 0.5}, fine_tune={"steps": 5})
    post, other, trained = Quanto(4), Quanto(2), Quanto(4, trained=True)
    first = [benchmark.row_key(peer, 0, bench) for peer in (post, other, trained)]
    assert len({*first, benchmark.row_key(trained, 1, bench)}) == 4
    bench.fine_tune = {"steps": 6}
    assert benchmark.row_key(post, 0, bench) == first[0]
    assert benchmark.row_key(trained, 0, bench) != first[2]


def test_settings_of_the_fine_tune_follow_ours() -> None:
    cfg = benchmark.configuration(seed=3, steps=None)
    assert (cfg.name, cfg.data.seed) == ("best_28x", 3)
    assert (cfg.objective.feature, cfg.optimizer.lr, cfg.trainer.max_steps) == (20.0, 5e-4, 400)
    assert benchmark.configuration(seed=0, steps=5).trainer.max_steps == 5


def test_what_is_missing_is_said_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="choose from optimum-quanto, torchao, NNCF, Torch-Prun"):
        benchmark.chosen(["quanto"], post_training=False)
    absent = SimpleNamespace(packages=("no-such-library",))
    with pytest.raises(ModuleNotFoundError, match=r'no-such-library missing: pip install "mmcomp'):
        benchmark.check_installed([absent])
    assert not any(peer.trained for peer in benchmark.chosen(None, post_training=True))


def test_finished_rows_are_kept_and_not_repeated(
    tiny_backbone: HFClip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = {"retrieval/mean_r@1": 0.5, "zeroshot/subgroup_acc@1": 0.5}
    bench = benchmark.Bench(benchmark.configuration(0, 5), "val", tiny_backbone, scores, None, {})
    measured: list[tuple[str, int]] = []

    def measure(peer: Any, seed: int, *_: Any) -> dict[str, Any]:
        measured.append((benchmark.title(peer), seed))
        if peer.name == "int4" and len(measured) < 4:
            raise RuntimeError("out of luck")
        sizes = {"bytes": 50, "graph_bytes": 0, "coverage": 1.0}
        return sizes | {"metrics": scores}

    monkeypatch.setattr(benchmark, "PEERS", (Quanto(2), Quanto(4, trained=True)))
    monkeypatch.setattr(benchmark, "build", lambda *_: bench)
    monkeypatch.setattr(benchmark, "check_installed", lambda _: None)
    monkeypatch.setattr(benchmark, "measure", measure)

    def run(*seeds: int) -> list[tuple[str, int, bool]]:
        options = {"only": None, "post_training": False, "split": "val", "steps": 5}
        benchmark.benchmark(SimpleNamespace(**options, out=tmp_path, ours=None, seeds=seeds))
        rows = json.loads((tmp_path / "peers.json").read_bytes())["results"]
        return [(row["name"], row["seed"], row["metrics"] is not None) for row in rows]

    assert run(0) == [("int2", 0, True), ("int4", 0, False)]
    assert run(1) == [("int2", 0, True), ("int4", 0, False), ("int4", 1, False)]
    assert run(0, 1) == [("int2", 0, True), ("int4", 0, True), ("int4", 1, True)]
    title = "optimum-quanto int4, fine-tuned"
    expected = [("optimum-quanto int2", 0), (title, 0), (title, 1), (title, 0), (title, 1)]
    assert measured == expected
    text = (tmp_path / "peers.md").read_text()
    assert "| optimum-quanto | int4 | yes | 50.0 ± 0.0 (2 seeds) |" in text
