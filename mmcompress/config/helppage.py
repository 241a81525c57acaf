"""What `python train.py --help` prints: made from `conf/`, so that it is always complete."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from mmcompress.config.comments import idea_of
from mmcompress.system.locations import project_path

WIDTH = 100

GROUPS = {
    "backbone": "the model to compress",
    "compression": "the recipe; `mmcompress recipes` explains each",
    "reconstruction": "repairs each compressed block before fine-tuning",
    "data": "what it is calibrated, fine-tuned and scored on",
    "objective": "the loss of fine-tuning",
    "optimizer": "of fine-tuning",
    "trainer": "how long and on what it is fine-tuned",
    "trainer/strategy": "how several processes share the work",
    "evaluation": "what is measured",
    "logger": "who else gets the results",
    "callbacks": "what happens during fine-tuning",
    "experiment": "several choices together, under one name",
    "sweep": "many runs: a grid, or a search",
    "hydra/launcher": "where the runs of a sweep go (with -m)",
}
"""Group of `conf/` → what it chooses."""

NAMES_ALONE = ("compression",)
"""Groups with so many choices that only their names are listed."""

ABOVE = """\
Compress a multimodal model, fine-tune it, store it, and score what was stored.

    python train.py GROUP=CHOICE … KEY=VALUE …

Each run makes a folder below runs/: run.json holds what was measured, artifact/ the model.

Examples

    python train.py compression=lowrank
        low rank, fine-tuned for a minute on a small CLIP that comes with the package
    python train.py compression=int4 trainer=post_training
        4-bit weights without training
    python train.py compression=int4 compression.steps.int4.group_size=32 seed=1
        any setting of any choice can be changed
    python train.py backbone=open_clip backbone.name=ViT-B-32 backbone.pretrained=openai \\
        compression=lowrank_int8 data=coco data.root=IMAGES data.annotations=dataset_coco.json
        another model on other data
    python train.py -m compression=int8,int4,lowrank seed=0,1,2
        a sweep: every combination; the same command goes on where it was cut short

Groups and their choices (* is the default)
"""

BELOW = """\
More

    python train.py --cfg job            the whole configuration, with every key that can be set
    python train.py --cfg job -p data    a part of it
    python train.py --hydra-help         Hydra's own options, such as -m
    mmcompress --help                    the other commands: look at an artifact, score it, report
    docs/                                the manual; https://hydra.cc explains the command line"""


def help_page() -> str:
    """The page, without a line break at its end."""
    conf = project_path("conf")
    defaults = _defaults(conf / "train.yaml")
    groups = "\n".join(
        line for group, meaning in GROUPS.items() for line in _group(conf, group, meaning, defaults)
    )
    return "\n".join([ABOVE, groups, BELOW])


def _defaults(path: Path) -> dict[str, str | None]:
    """Group → the choice of the main file's defaults list."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
    named = [entry for entry in listed if isinstance(entry, dict)]
    return {group: name for entry in named for group, name in entry.items()}


def _group(
    conf: Path, group: str, meaning: str, defaults: Mapping[str, str | None]
) -> Iterator[str]:
    yield f"  {group}: {meaning}"
    files = sorted((conf / group).glob("*.yaml"))
    names = {path: path.stem + "*" * (path.stem == defaults.get(group)) for path in files}
    if group in NAMES_ALONE:
        yield _wrapped("    ", " ".join(names.values()))
    else:
        width = max(map(len, names.values())) + 2
        for path, name in names.items():
            idea = idea_of(path).removesuffix(".")
            yield _wrapped(f"    {name:<{width}}", idea).rstrip()
    yield ""


def _wrapped(first: str, text: str) -> str:
    """In lines that begin where the text begins in the first."""
    later = " " * len(first)
    lines = textwrap.wrap(text, WIDTH - len(first), break_on_hyphens=False) or [""]
    return f"\n{later}".join([first + lines[0], *lines[1:]])
