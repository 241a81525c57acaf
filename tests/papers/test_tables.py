"""conf/table: every row is a run that works, every published number one entry of the data file."""

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.config.compose import compose_config
from mmcompress.papers.needs import missing, repository
from mmcompress.papers.published import Published, find, read_papers
from mmcompress.papers.reproduction import lines, table_markdown, values_of
from mmcompress.papers.table import Column, PaperTable, Row, jobs, load_table, table_names
from mmcompress.records.schema import Metrics, Record, Size

NAMES = table_names()
WANTED = {
    "openclip",
    "qwt",
    "hqq",
    "ecoflap",
    "upop",
    "tinyclip",
    "clip_kd",
    "mobileclip",
    "deep_compression",
    "svd_llm",
    "gptq",
    "wanda",
}


@pytest.fixture(scope="module")
def papers() -> list[dict[str, Any]]:
    return read_papers()


# Training steps of a row at scale=smoke: UPop's search and retraining, a minute on two cores.
LONGEST_AT_SMOKE = 60


def settings(**paths: str | None) -> dict[str, Any]:
    """As conf/reproduce.yaml, short."""
    data = {
        name: {"what": f"files of {name}", "overrides": ["data=webdataset", "data.root={path}"]}
        for name in ("imagenet1k", "mscoco", "flickr30k", "cc12m_imagenet1k")
    }
    return {
        "overrides": {"smoke": ["backbone=mini"], "full": ["backbone=open_clip"]},
        "paths": dict.fromkeys(data) | paths,
        "data": data,
    }


def test_all_tables_are_there():
    assert set(NAMES) == WANTED


def test_every_entry_says_where_it_was_read(papers):
    assert len(papers) > 700
    assert all(entry["source"] and isinstance(entry["value"], int | float) for entry in papers)


# Typed from the papers' pages, not from the file.
NUMBERS = {
    "openclip": {
        ("ViT-B-32, openai", "ImageNet-1k top-1"): 63.32,
        ("ViT-B-32, openai", "COCO image R@1"): 30.44,
        ("ViT-B-32, openai", "COCO text R@1"): 50.12,
        ("ViT-L-14, openai", "ImageNet-1k top-1"): 75.54,
    },
    "qwt": {
        ("full precision", "ImageNet-1k top-1"): 63.4,
        ("W6A6, image tower", "ImageNet-1k top-1"): 59.2,
        ("W6A6 + QwT, image tower", "ImageNet-1k top-1"): 60.3,
        ("W6A6, both towers", "ImageNet-1k top-1"): 29.8,
        ("W6A6 + QwT, both towers", "ImageNet-1k top-1"): 43.5,
        ("W8A8, both towers", "ImageNet-1k top-1"): 38.7,
        ("W8A8 + QwT, both towers", "ImageNet-1k top-1"): 54.6,
    },
    "hqq": {("HQQ, 2 bits in groups of 16", "ImageNet-1k top-1"): 71.6},
    "upop": {
        ("UPop, 2x", "COCO text R@1"): 70.8,
        ("UPop, 2x", "COCO image R@1"): 53.1,
        ("UPop, 2x", "Flickr30k text R@1"): 93.2,
        ("UPop, 2x", "Flickr30k image R@1"): 80.5,
    },
    "tinyclip": {("one half, 40M + 19M", "ImageNet-1k top-1"): 59.8},
    "clip_kd": {
        ("contrastive alone", "ImageNet-1k top-1"): 30.55,
        ("CLIP-KD (all three)", "ImageNet-1k top-1"): 34.9,
    },
    "mobileclip": {("MobileCLIP-B", "ImageNet-1k top-1"): 76.8},
    "deep_compression": {("prune 0.7 + 16 clusters", "top-1"): 57.07},
    "svd_llm": {("SVD-LLM(W), 20 % removed", "ImageNet-1k top-1"): 7.94},
    "wanda": {("Wanda, 2:4", "ImageNet-1k top-1"): 11.02},
}


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_are_those_of_the_file(name, papers):
    table = load_table(name)
    cells = table.cells(papers)
    assert all(cell.source for cell in cells.values())
    assert {key: cells[key].value for key in NUMBERS.get(name, {})} == NUMBERS.get(name, {})
    named = [row.name for row in table.rows]
    assert len(set(named)) == len(named)
    assert table.dense is None or table.dense in named
    assert len(table.conventions) > 80
    assert table.hardware


@pytest.fixture(scope="module")
def mini() -> HFClip:
    return HFClip.mini()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_runs_of_the_packaged_model(name, mini):
    seen = set()
    for job in jobs(load_table(name), "smoke", settings()):
        if job.overrides in seen:
            continue
        seen.add(job.overrides)
        cfg = compose_config(*job.overrides)
        assert cfg.trainer.max_steps <= LONGEST_AT_SMOKE
        recipe = instantiate(cfg.compression)
        recipe.check(mini)
        for step in recipe.steps.values():
            assert step.select(step.candidates(mini))


def test_a_number_has_to_be_single():
    papers = [
        {"method": "a", "value": 1, "table": "t", "source": "s"},
        {"method": "b", "value": 2, "table": "t", "source": "s", "secondhand": True, "ratio": 2},
    ]
    assert find(papers, {"method": "b"}) == Published(2.0, "s, t", True, "2×")
    for wanted, count in (({"table": "t"}, 2), ({"method": "c"}, 0)):
        with pytest.raises(ValueError, match=f"{count} published numbers have"):
            find(papers, wanted)


TABLE = PaperTable(
    name="t",
    title="A table",
    columns=[Column("top-1", "zeroshot/acc@1", "imagenet1k")],
    rows=[
        Row("dense", published={}),
        Row("small", published={}),
        Row("other model", alone=True),
        Row("broken"),
    ],
    hardware="one GPU",
    conventions="Dense is float32.",
    dense="dense",
)
THEIRS = {
    ("dense", "top-1"): Published(60.0, "a paper", False, "151.28 M"),
    ("small", "top-1"): Published(50.0, "a paper", True, ""),
}


def record(accuracy: float, ratio: float) -> Record:
    size = Size(round(2_000_000 * ratio), 2_000_000, ratio, 32 / ratio, "float32")
    metrics = Metrics({}, {"zeroshot/acc@1": accuracy})
    return Record(folder=Path(), config={}, status="finished", metrics=metrics, size=size)


def test_ours_beside_theirs_by_hand():
    dense, small = record(0.7, 1.0), record(0.65, 4.0)
    results = {("dense", None): dense, ("small", None): small, ("other model", None): dense}
    found = lines(TABLE, "smoke", results | {("broken", None): "failed, out of memory"}, THEIRS)
    text = table_markdown(TABLE, found, THEIRS)
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == [
        "| dense | 70.0 | 60.0 | – | 2.00 MB, 1.00× | 151.28 M |",
        "| small | 65.0 (−5.0) | 50.0 (−10.0) | +5.0 | 2.00 MB, 4.00× | – |",
        "| other model | 70.0 | – | – | 2.00 MB, 1.00× | – |",
        "| broken | – | – | – | – | – |",
    ]
    assert "- broken: failed, out of memory" in text
    assert "Conventions: Dense is float32." in text
    assert "Published numbers: a paper; a paper (second-hand)." in text
    assert [row["difference"] for row in values_of(TABLE, found)] == [None, 5.0, None, None]


def test_the_packaged_data_may_have_another_name_for_a_metric():
    """OpenMoji has two zero-shot tasks, each with its own name."""
    column = Column("top-1", "zeroshot/acc@1", "x", smoke="zeroshot/subgroup_acc@1")
    assert column.metric_at("full") == "zeroshot/acc@1"
    table = PaperTable(**vars(TABLE) | {"columns": [column]})
    ours = record(0.7, 1.0)
    ours.metrics.compressed["zeroshot/subgroup_acc@1"] = 0.5
    found = lines(table, "smoke", {("dense", None): ours}, THEIRS)
    assert found[0].ours == {"top-1": 50.0}


def test_at_full_scale_values_are_compared():
    results = {("dense", "imagenet1k"): record(0.61, 1.0), ("small", "imagenet1k"): record(0.5, 4)}
    found = lines(TABLE, "full", results, THEIRS)
    assert [line.differences.get("top-1") for line in found] == [1.0, 0.0, None, None]


def test_values_of_another_model_on_other_data_are_not_subtracted():
    table = PaperTable(**vars(TABLE) | {"dense": None})
    found = lines(table, "smoke", {("dense", None): record(0.7, 1)}, THEIRS)
    assert all(line.differences == {} for line in found)


def test_units_that_differ_are_not_subtracted():
    table = PaperTable(
        **vars(TABLE) | {"columns": [Column("top-1", "zeroshot/acc@1", "x", compare=False)]}
    )
    found = lines(table, "smoke", {("dense", None): record(0.7, 1)}, THEIRS)
    assert all(line.differences == {} for line in found)


def test_what_is_missing_is_said_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("mmcompress.papers.needs.hub_reachable", lambda: False)
    monkeypatch.setattr("mmcompress.papers.needs.constants.HF_HUB_CACHE", str(tmp_path))
    sentence = missing(load_table("hqq"), settings())
    assert sentence.startswith("table=hqq scale=full needs imagenet1k (files of imagenet1k: give ")
    assert "laion/CLIP-ViT-H-14-laion2B-s32B-b79K" in sentence
    assert "Hardware: one GPU of 24 GB" in sentence
    assert "\n" not in sentence
    for name in ("CLIP-ViT-H-14-laion2B-s32B-b79K", "CLIP-ViT-B-32-laion2B-s34B-b79K"):
        (tmp_path / f"models--laion--{name}" / "snapshots" / "1").mkdir(parents=True)
    assert missing(load_table("hqq"), settings(imagenet1k=str(tmp_path))) == ""


def test_repositories_of_weights(tmp_path):
    assert repository({"name": "ViT-B-32", "pretrained": "openai"}).startswith("timm/")
    assert repository({"name_or_path": "wkcn/TinyCLIP"}) == "wkcn/TinyCLIP"
    assert repository({"name_or_path": str(tmp_path)}) is None
    assert repository({"name": "ViT-B-32", "pretrained": None}) is None
    assert repository({"_target_": "mini"}) is None
