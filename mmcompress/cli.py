"""The command `mmcompress`: `COMMANDS` is the table of its words, each a function of this file.

Everything heavy is imported where it is used: `--help` waits for nothing, `report` not for torch.
"""

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mmcompress.config.commandline import Parser, start
from mmcompress.config.errors import in_one_sentence
from mmcompress.exports.targets import TARGETS
from mmcompress.system.imports import collector_paused

Argument = tuple[str, Mapping[str, Any]]
"""Name and settings of `ArgumentParser.add_argument`."""

ARTIFACT: Argument = ("artifact", {"type": Path, "help": "its folder, or that of its run"})


@dataclass(frozen=True)
class Command:
    """One word after `mmcompress`.

    Attributes:
        help: what it does, in one line.
        run: gets what was parsed.
        overrides: what they are for, where it takes overrides of the configuration.
    """

    help: str
    run: Callable[[Namespace], object]
    arguments: Sequence[Argument] = ()
    overrides: str = ""


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Args:
        words: after `mmcompress`; those of the command line when None.
    """
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["train"]:  # Hydra reads the rest, which has options of its own
        train(words[1:])
        return
    parser = _parser()
    # Overrides may stand before and after --json, which argparse alone does not allow.
    args, more = parser.parse_known_args(words)
    command = COMMANDS[args.command]
    if any(word.startswith("-") for word in more) or (more and not command.overrides):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if command.overrides:
        args.overrides += more
        if args.config_dir is not None:
            args.overrides.append(f"hydra.searchpath=[file://{args.config_dir.resolve()}]")
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    command.run(args)


def _parser() -> Parser:
    parser = Parser(
        prog="mmcompress",
        description="Compress multimodal models, and look at what came out.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.help, add_help=name != "train")
        for flag, settings in command.arguments:
            own.add_argument(flag, **settings)
        if command.overrides:
            own.add_argument("overrides", nargs="*", default=[], help=command.overrides)
            own.add_argument("--config-dir", type=Path, help="folder with configs of your own")
    return parser


def train(words: Sequence[str]) -> None:
    """`python train.py WORDS`: overrides, and Hydra's options such as `-m`."""
    start(job, words)


def job(cfg: DictConfig) -> Any:
    """One run, by itself or in a sweep; launchers send this function to other processes.

    Returns:
        The numbers that `goals` names, in a sweep.
    """
    with collector_paused():
        from mmcompress.experiment import run
        from mmcompress.sweeps.job import as_job

    return as_job(run)(cfg)


@in_one_sentence
def list_recipes(name: str | None, as_json: bool, folder: Path | None) -> None:
    """Print all recipes by family, or every setting of one."""
    from mmcompress.report.recipes import show_recipes

    show_recipes(name, as_json=as_json, folder=folder)


@in_one_sentence
def name_targets(overrides: Sequence[str]) -> None:
    """Print the card of a backbone."""
    from mmcompress.backbones.card import card_of
    from mmcompress.report.card import print_card

    print_card(card_of(_backbone(overrides)))


@in_one_sentence
def inspect(folder: Path, overrides: Sequence[str]) -> None:
    """Print the ledger of an artifact; only one of format 2 needs its model, and torch."""
    from mmcompress.artifact.ledger import list_rows
    from mmcompress.format.manifest import artifact_folder
    from mmcompress.format.reader import read_manifest
    from mmcompress.report.console import print_ledger

    def describe(manifest: dict[str, Any]) -> Any:
        from mmcompress.artifact.load import describe_model

        return describe_model(folder, manifest, _own_model(overrides))

    folder = artifact_folder(folder)
    print_ledger(list_rows(folder, read_manifest(folder, describe)))


@in_one_sentence
def write_export(
    folder: Path,
    to: str,
    out: Path | None,
    *,
    activations: str | None,
    target: str | None,
    test: bool,
    overrides: Sequence[str],
) -> None:
    """Write an artifact for another library, and say what loads it and what holds its weights."""
    from mmcompress.artifact.folder import Artifact, artifact_folder
    from mmcompress.exports.targets import export

    out = out or folder.with_name(f"{folder.name}_{to}")
    artifact = Artifact.load(artifact_folder(folder))
    batches = _calibration(overrides, artifact.backbone) if overrides else None
    found = export(
        artifact, to, out, activations=activations, batches=batches, program=target, test=test
    )
    for line in found.containers:
        print(line)
    if found.difference is not None:
        print(found.difference)
    print(f"{out}: read it with {TARGETS[to].loaded_by.format(out)}")


@in_one_sentence
def score(folder: Path, overrides: Sequence[str], *, as_json: bool = False) -> dict[str, Any]:
    """Print the metrics of an artifact, by runtime, evaluators and data of the configuration."""
    from hydra.utils import instantiate

    from mmcompress.config.compose import compose_config
    from mmcompress.config.validation import check_settings
    from mmcompress.evaluation.evaluate import evaluate
    from mmcompress.functional.score import intervals
    from mmcompress.records.read import typed
    from mmcompress.records.schema import Interval
    from mmcompress.report.metrics import with_interval
    from mmcompress.runtime.loading import to_score

    cfg = compose_config(*overrides)
    check_settings(cfg, "data", "evaluation")
    scored = to_score(folder, cfg.runtime, skeleton=_own_model(overrides))
    data = instantiate(cfg.data)
    data.attach(scored.prepares)
    evaluators = instantiate(cfg.evaluation.evaluators)
    metrics = evaluate(scored.encode, data, evaluators, cfg.evaluation.split)
    if as_json:
        print(json.dumps(metrics, indent=2))
    else:
        found = typed(dict[str, Interval], intervals({}, metrics))
        for name, value in metrics.items():
            print(f"{name:28} {with_interval(name, value, found.get(name))}")
    return metrics


@in_one_sentence
def report(runs: Path, out: Path | None, metric: str | None, chosen: Sequence[Path]) -> None:
    """Print the tables and what did not finish, and write the report."""
    from mmcompress.report.files import printed, read_report, write_report

    found = read_report(runs, metric=metric, runs=chosen)
    print(printed(found))
    files = write_report(found, out or runs / "report")
    print(f"{files[0]} (and {len(files) - 1} files beside it)")


def _backbone(overrides: Sequence[str]) -> Any:
    """The model that the configuration describes."""
    from hydra.utils import instantiate

    from mmcompress.config.compose import compose_config
    from mmcompress.config.validation import check_settings

    cfg = compose_config(*overrides)
    check_settings(cfg, "backbone")
    return instantiate(cfg.backbone)


def _calibration(overrides: Sequence[str], backbone: Any) -> list[Any]:
    """Batches of the data that the configuration describes, for calibration."""
    from hydra.utils import instantiate

    from mmcompress.config.compose import compose_config
    from mmcompress.config.validation import check_settings

    cfg = compose_config(*overrides)
    check_settings(cfg, "data")
    data = instantiate(cfg.data)
    data.attach(backbone)
    return list(data.calibration_dataloader())


def _own_model(overrides: Sequence[str]) -> Callable[[], Any] | None:
    """Builds the backbone that the command line names; None when it names none."""
    if not any(override.startswith("backbone") for override in overrides):
        return None
    return lambda: _backbone(overrides)


COMMANDS = {
    "train": Command(
        "compress, fine-tune, store and score a model, as train.py; takes Hydra overrides such as "
        "compression=int4",
        lambda args: None,
    ),
    "recipes": Command(
        "what recipes there are, or every setting of one",
        lambda args: list_recipes(args.name, args.json, args.config_dir),
        [
            ("name", {"nargs": "?", "help": "such as int4; all recipes by default"}),
            ("--json", {"action": "store_true", "help": "print it for programs"}),
            ("--config-dir", {"type": Path, "help": "folder with configs of your own"}),
        ],
    ),
    "targets": Command(
        "what of a model may be compressed, by tower",
        lambda args: name_targets(args.overrides),
        overrides="such as backbone=open_clip backbone.name=…",
    ),
    "inspect": Command(
        "where the bytes of an artifact went",
        lambda args: inspect(args.artifact, args.overrides),
        [ARTIFACT],
        overrides="backbone=… of a model of your own",
    ),
    "evaluate": Command(
        "score an artifact or an export, in the runtime that runs it",
        lambda args: score(args.artifact, args.overrides, as_json=args.json),
        [ARTIFACT, ("--json", {"action": "store_true", "help": "print full precision as JSON"})],
        overrides="such as runtime=onnx data=openmoji evaluation.split=val",
    ),
    "export": Command(
        "write an artifact for another runtime, or as a checkpoint of the library it comes from",
        lambda args: write_export(
            args.artifact,
            args.to,
            args.out,
            activations=args.activations,
            target=args.target,
            test=args.test,
            overrides=args.overrides,
        ),
        [
            ARTIFACT,
            ("--to", {"required": True, "choices": TARGETS, "help": "the library or runtime"}),
            ("--out", {"type": Path, "help": "folder to create; ARTIFACT_<to> by default"}),
            (
                "--activations",
                {
                    "help": "int8: inputs of linear layers are integers too (onnx); static_int8: "
                    "between ends that data show (onnx, openvino); score it then"
                },
            ),
            (
                "--target",
                {"help": "transformers (default) or vllm: who reads it (compressed-tensors)"},
            ),
            (
                "--test",
                {
                    "action": "store_true",
                    "help": "load it in the other library and compare embeddings of 32 items",
                },
            ),
        ],
        overrides="data=… that static_int8 looks at",
    ),
    "report": Command(
        "tables, pictures and a page from the run folders below one",
        lambda args: report(args.runs, args.out, args.metric, args.run),
        [
            ("runs", {"type": Path, "help": "the folder"}),
            ("--out", {"type": Path, "help": "folder for the files; RUNS/report by default"}),
            (
                "--metric",
                {"help": "such as retrieval/mean_recall; by default the first that was measured"},
            ),
            (
                "--run",
                {
                    "type": Path,
                    "action": "append",
                    "default": [],
                    "help": "folder of a run to show in detail; may be given several times",
                },
            ),
        ],
    ),
}


if __name__ == "__main__":
    main()
