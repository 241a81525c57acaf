"""The command `mmcompress`: train, targets, inspect, evaluate, export, report.

What needs torch is imported where it is used: a report does without and is seconds faster.
"""

import json
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from mmcompress.config.commandline import Plain
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import in_one_sentence
from mmcompress.exports.dense import LOADED_BY, export
from mmcompress.report.metrics import with_interval
from mmcompress.system.locations import project_path


def main() -> None:
    """Entry point of the console script."""
    parser = Plain(
        prog="mmcompress",
        description="Compress multimodal models, and look at what came out.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "train",
        add_help=False,
        help="the whole line, as train.py; takes Hydra overrides such as compression=int4",
    )
    naming = commands.add_parser("targets", help="what of a model may be compressed, by tower")
    naming.add_argument("overrides", nargs="*", help="such as backbone=open_clip backbone.name=…")
    inspecting = commands.add_parser("inspect", help="where the bytes of an artifact went")
    inspecting.add_argument("artifact", type=Path, help="its folder, or that of its run")
    inspecting.add_argument("overrides", nargs="*", help="backbone=… of a model of your own")
    scoring = commands.add_parser("evaluate", help="score an artifact in this process")
    scoring.add_argument("artifact", type=Path, help="its folder, or that of its run")
    scoring.add_argument("overrides", nargs="*", help="such as data=openmoji evaluation.split=val")
    exporting = commands.add_parser(
        "export", help="write an artifact as a dense checkpoint of the library it comes from"
    )
    exporting.add_argument("artifact", type=Path, help="its folder, or that of its run")
    exporting.add_argument("--to", required=True, choices=LOADED_BY)
    exporting.add_argument("--out", type=Path, help="folder to create; ARTIFACT_<to> by default")
    reporting = commands.add_parser(
        "report", help="tables, pictures and a page from the run folders below one"
    )
    reporting.add_argument("runs", type=Path)
    reporting.add_argument("--out", type=Path, help="folder for the files; RUNS/report by default")
    reporting.add_argument(
        "--metric", help="such as retrieval/mean_recall; the main one by default"
    )
    reporting.add_argument(
        "--run", type=Path, action="append", default=[], help="folder of a run to show from close"
    )
    for command in (naming, inspecting, scoring):
        command.add_argument("--config-dir", type=Path, help="folder with configs of your own")
    scoring.add_argument("--json", action="store_true", help="print full precision as JSON")

    # Hydra has options of its own, so `train` hands everything over.
    if sys.argv[1:2] == ["train"]:
        sys.argv = ["mmcompress train", *sys.argv[2:]]
        runpy.run_path(str(project_path("train.py")), run_name="__main__")
        return
    # Overrides may stand before and after --json, which argparse alone does not allow.
    args, more = parser.parse_known_args()
    if any(word.startswith("-") for word in more):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if args.command in ("export", "report"):
        if more:
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        if args.command == "export":
            write_back(args.artifact, args.to, args.out)
        else:
            report(args.runs, args.out, args.metric, args.run)
        return
    overrides = [*args.overrides, *more]
    if args.config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{args.config_dir.resolve()}]")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.command == "targets":
        name_targets(overrides)
    elif args.command == "inspect":
        inspect(args.artifact, overrides)
    else:
        score(args.artifact, overrides, as_json=args.json)


@in_one_sentence
def name_targets(overrides: list[str]) -> None:
    """Print the card of a backbone."""
    from mmcompress.backbones.card import card_of
    from mmcompress.report.console import print_card

    print_card(card_of(_built(compose_config(*overrides), "backbone")))


@in_one_sentence
def inspect(folder: Path, overrides: list[str]) -> None:
    """Print the ledger of an artifact."""
    from mmcompress.artifact.folder import Artifact, artifact_folder
    from mmcompress.report.console import print_ledger

    artifact = Artifact.read(artifact_folder(folder), skeleton=_own_model(overrides))
    print_ledger(artifact.ledger())


@in_one_sentence
def write_back(folder: Path, library: str, out: Path | None) -> None:
    """Write the dense checkpoint and say what loads it."""
    from mmcompress.artifact.folder import Artifact, artifact_folder

    out = out or folder.with_name(f"{folder.name}_{library}")
    export(Artifact.load(artifact_folder(folder)), library, out)
    print(f"{out}: read it with {LOADED_BY[library].format(out)}")


@in_one_sentence
def score(folder: Path, overrides: list[str], *, as_json: bool = False) -> dict[str, Any]:
    """Print the metrics of an artifact, by the evaluators and data of the configuration."""
    from mmcompress.artifact.folder import Artifact, artifact_folder
    from mmcompress.config.validation import check_settings
    from mmcompress.evaluation.evaluate import evaluate
    from mmcompress.functional.score import intervals

    cfg = compose_config(*overrides)
    check_settings(cfg, "data", "evaluation")
    artifact = Artifact.load(artifact_folder(folder), skeleton=_own_model(overrides))
    data = instantiate(cfg.data)
    data.attach(artifact.backbone)
    evaluators = instantiate(cfg.evaluation.evaluators)
    metrics = evaluate(artifact.backbone, data, evaluators, cfg.evaluation.split)
    if as_json:
        print(json.dumps(metrics, indent=2))
    else:
        found = intervals({}, metrics)
        for name, value in metrics.items():
            print(f"{name:28} {with_interval(name, value, found.get(name))}")
    return metrics


@in_one_sentence
def report(runs: Path, out: Path | None, metric: str | None, chosen: list[Path]) -> None:
    """Print the tables and what did not finish, and write the report."""
    from mmcompress.report.report import printed, read_report, write_report

    found = read_report(runs, metric=metric, runs=chosen)
    print(printed(found))
    files = write_report(found, out or runs / "report")
    print(f"{files[0]} (and {len(files) - 1} files beside it)")


def _built(cfg: DictConfig, group: str) -> Any:
    """The object that a group of the configuration describes."""
    from mmcompress.config.validation import check_settings

    check_settings(cfg, group)
    return instantiate(cfg[group])


def _own_model(overrides: list[str]) -> Callable[[], Any] | None:
    """Builds the backbone that the command line names; None when it names none."""
    if not any(override.startswith("backbone") for override in overrides):
        return None
    return lambda: _built(compose_config(*overrides), "backbone")


if __name__ == "__main__":
    main()
