"""Mistakes of a first hour: each ends in one sentence that names what is wrong, and leaves nothing.

A command line, and what its one line of output has to hold. Nothing may be made: no run folder, no
folder of W&B, no baseline.
"""

import re
import runpy
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mmcompress.cli import main
from mmcompress.system.locations import project_path

COMMANDS = ("targets", "inspect", "evaluate", "export", "report")

COMMAND_LINES = [
    # Names of groups, files and keys.
    ("compression=lowrnk", "compression=lowrnk: there is no such file.* did you mean lowrank"),
    ("backbone=clip", "backbone=clip: .* choose one of artifact, .* open_clip"),
    ("data=imagenet", "data=imagenet: .* choose one of coco"),
    ("objective=kd", "objective=kd: "),
    ("optimizer=sgd", "optimizer=sgd: .* choose one of adamw"),
    ("reconstruction=block", "reconstruction=block: .* blockwise"),
    ("callbacks=nope", "callbacks=nope: "),
    ("trainer=cuda", "trainer=cuda: .* gpu"),
    ("evaluation=zeroshot", "evaluation=zeroshot: "),
    ("logger=tensorbord", "did you mean tensorboard"),
    ("experiment=cifar", "experiment=cifar: .* cifar10"),
    ("sweep=ranks", "sweep=ranks: "),
    ("hydra/launcher=slrm", "did you mean slurm"),
    ("comprssion=lowrank", "there is no key comprssion; did you mean compression"),
    ("compression/steps=lowrank", "compression/steps: "),
    ("compression.steps.lowrank.rank=8", "compression.steps.lowrank has no key rank"),
    ("compression.steps.int8.bits=4", "compression.steps has no key int8; choose one of lowrank"),
    ("trainer.epochs=3", "trainer has no key epochs; choose one of accelerator"),
    ("data.color=red", "data has no key color; choose one of batch_size"),
    ("data.seconds=1", r"set it with a plus sign, \+data.seconds=VALUE"),
    ("evaluation.splt=val", "did you mean split"),
    ("evaluation.latency.batch_size=1", "did you mean batch_sizes"),
    ("+evaluation.latency.split=val", "evaluation.latency.split: there is no such setting"),
    ("+trainer.epochs=3", "trainer.epochs: there is no such setting; trainer has"),
    ("+data.color=red", "data.color: there is no such setting; data has"),
    ("seed.x=1", "seed has no keys"),
    ("compression=null", "not null"),
    # Signs and quotes.
    ("compression = lowrank", "'compression' cannot be read: write KEY=VALUE, without spaces"),
    ("--compression lowrank", "--compression is no option: .* compression=VALUE"),
    ("compression=low rank", "'rank' cannot be read"),
    ("compression=lowrank,int8", "names several values: add -m"),
    ("compression.steps.lowrank.rank_ratio=0.2,0.3", "names several values: add -m"),
    ("seed:1", "'seed:1' cannot be read"),
    ("name=a=b", "'name=a=b' cannot be read"),
    ("'name=(a'", r"'name=\(a' cannot be read"),
    ("+compression=int8", r"change it with compression=VALUE, without \+"),
    ("+seed=1", r"change it with seed=VALUE, without \+"),
    ("'seed=${sed}'", "seed: Interpolation key 'sed' not found"),
    # Values of a wrong type.
    ("seed=abc", "seed=abc must be a whole number from 0"),
    ("seed=-5", "seed=-5 must be a whole number from 0"),
    ("warmup_ratio=2", "warmup_ratio=2 must be a number from 0 to 1"),
    ("goals=retrieval/mean_r@1", "goals=retrieval/mean_r@1 must be a list"),
    ("trainer.max_steps=ten", "trainer.max_steps=ten must be a whole number"),
    ("trainer.max_steps=1e3", "trainer.max_steps=1000.0 must be a whole number"),
    ("trainer.precision=foo", "trainer.precision=foo must be .* bf16-mixed"),
    ("data.batch_size=big", "data.batch_size=big must be a whole number"),
    ("data.batch_size=1.5", "data.batch_size=1.5 must be a whole number"),
    ("data.batch_size=null", "data.batch_size=null must be a whole number"),
    ("data=webdataset data.root=5", "data.root=5 must be a text"),
    ("optimizer.lr=fast", "optimizer.lr=fast must be a number$"),
    ("optimizer.betas=0.9", "optimizer.betas=0.9 must be a list"),
    ("objective.affinity=lots", "objective.affinity=lots must be a number"),
    ("evaluation.latency.batch_sizes=1", r"batch_sizes=1 must be a list .* such as \[1,32\]"),
    ("evaluation.latency.batch_sizes=[0]", r"batch_sizes=\[0\] must be"),
    ("compression.steps.lowrank.rank_ratio=half", "rank_ratio=half must be a number or null"),
    (
        "compression.steps.lowrank.weighting=svd",
        "weighting=svd must be none, whiten, ",
    ),
    ("compression.steps.lowrank.modality=[image,3]", "must be a text, a list or null"),
    ("compression.steps.lowrank=3", "compression.steps=.* must be keys with values"),
    ("compression=int4 compression.steps.int4.bits=four", "steps.int4.bits=four must be a whole"),
    ("compression=int4 compression.steps.int4.symmetric=maybe", "must be true or false"),
    ("budget.ratio=big", "budget.ratio=big must be a number or null"),
    ("logger=csv logger.csv.save_dir=null", "logger.csv.save_dir=null must be a text or a path"),
    ("callbacks.checkpoint.every_n_train_steps=often", "every_n_train_steps=often must be"),
    # Values that are missing.
    ("backbone=hf_text", "backbone.folder must be given: add backbone.folder=VALUE"),
    ("data=webdataset", "data.root must be given"),
    ("data=coco", "data.annotations and data.root must be given"),
    ("data=table", "data.files.train must be given"),
    ("data=hf_datasets", "data.path must be given"),
    ("backbone=artifact", "backbone.folder must be given"),
    # What this machine has not.
    ("trainer=gpu", "trainer.accelerator=gpu: PyTorch finds no GPU here; choose trainer=cpu"),
    ("trainer=ddp", "trainer.accelerator=gpu: "),
    ("trainer=fsdp", "trainer.accelerator=gpu: "),
    ("trainer.accelerator=tpux", "trainer: .*'tpux'"),
    ("trainer.devices=0", "trainer: .*devices=0"),
    ("trainer.max_steps=-2", "trainer: .*max_steps"),
    ("trainer.max_steps=-1 trainer.val_check_interval=null", "would train for ever"),
    ("trainer.val_check_interval=0", "trainer.val_check_interval=0"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1"),
    ("callbacks.checkpoint.every_n_train_steps=-1", "callbacks.checkpoint: .*-1"),
    # Models.
    ("backbone=open_clip backbone.name=ViT-Z", "backbone.name='ViT-Z' is no model of open_clip"),
    ("backbone=open_clip backbone.pretrained=laion9b", "'laion9b' is neither a file nor a tag"),
    ("backbone=open_clip backbone.pretrained=nowhere.pt", "'nowhere.pt' is neither a file"),
    ("backbone=open_clip", "cannot be reached"),
    ("backbone=hf backbone.name_or_path=nobody/nothing", "hub cannot be reached"),
    ("backbone=hf_clip backbone.name_or_path=empty", "'empty' cannot be loaded"),
    ("backbone=hf_text backbone.folder=a_file", "a_file"),
    ("backbone=artifact backbone.folder=empty", "empty/manifest.json"),
    # Reports and artifacts.
    ("report empty", "no finished run"),
    ("report nowhere", "nowhere is not a folder"),
    ("report a_file", "a_file is not a folder"),
    ("report empty --metric", "argument --metric: expected one argument"),
    ("inspect nowhere", "nowhere: is no folder"),
    ("inspect empty", "empty/manifest.json"),
    ("evaluate nowhere data=imagenet", "data=imagenet: "),
    ("evaluate nowhere evaluation.splt=val", "did you mean split"),
    ("evaluate nowhere data=webdataset", "data.root must be given"),
    ("evaluate nowhere data.batch_size=big", "data.batch_size=big must be a whole number"),
    ("evaluate", "arguments are required: artifact"),
    ("export nowhere --to hf", "nowhere: is no folder"),
    ("export nowhere --to gguf", "invalid choice: 'gguf'"),
    ("export nowhere", "arguments are required: --to"),
    ("targets backbone=hf_text", "backbone.folder must be given"),
    ("targets backbone = open_clip", "'backbone' cannot be read"),
]

WITH_A_MODEL = [
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
    ("optimizer.betas=[0.9,2]", "optimizer: Invalid beta parameter at index 1: 2"),
    ("data.batch_size=0", "data.batch_size=0 must be at least 1"),
    ("data.num_workers=-1", "data.num_workers=-1 must not be negative"),
    ("data.calibration_size=-3", "data.calibration_size=-3 must be at least 1"),
    ("objective.affinity=-1", "objective.affinity=-1 must not be negative"),
    ("compression.steps.lowrank.rank_ratio=0", "compression.steps.lowrank: rank_ratio=0 must lie"),
    ("compression.steps.lowrank.modality=video", "modality='video' matched 0 of"),
    ("compression.steps.lowrank.role=mpl.*", r"role='mpl.\*' matched 0 of"),
    ("compression=int4 compression.steps.int4.group_size=7", "group_size=7 does not divide"),
    ("budget.ratio=1e6", "budget: 19 bytes are allowed"),
    ("compression.budget.ratio=10", "compression.budget has moved: write budget.ratio=VALUE"),
    ("compression=none budget.ratio=4", "budget: "),
    ("compression.dense_dtype=float", "dense_dtype='float' must be one of float32, float16"),
    ("evaluation.split=tset", "evaluation.split='tset' is not a split"),
    ("data=webdataset data.root=nowhere", "data.root='nowhere' is no folder"),
    ("data=image_folder data.root=a_file", "data.root='a_file'"),
    ("data=table data.files.train=nowhere.csv", "nowhere.csv is no file"),
    ("data=hf_datasets data.path=nowhere", "set data.text_column or data.label_column"),
    ("data=hf_datasets data.path=nowhere data.text_column=text", "nowhere"),
    ("resume=nowhere.ckpt", "resume=nowhere.ckpt"),
    ("run_dir=a_file/run", "run_dir=a_file/run cannot be written"),
    ("objective=captioning", "needs a generative model"),
    ("evaluation=captioning", "needs a generative model"),
    ("evaluation=accuracy", "evaluation=accuracy is for a classifier"),
    ("backbone=clap_small", "data openmoji holds image, and the backbone .* takes audio and text"),
    ("backbone=mlp", "this objective needs pairs of two modalities"),
    ("backbone=mlp trainer=post_training", "set evaluation="),
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start in, which holds a file and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("W&B was started"))
    (tmp_path / "a_file").write_text("no table, no archive\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def said(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The lines that a command which fails prints."""
    words = shlex.split(line)
    monkeypatch.setattr(sys, "argv", ["mmcompress", *words])
    train = partial(runpy.run_path, str(project_path("train.py")), run_name="__main__")
    command = main if words[0] in COMMANDS else train
    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code not in (0, None)
    printed = capsys.readouterr()
    last = [stopped.value.code] if isinstance(stopped.value.code, str) else []
    return [*printed.out.splitlines(), *printed.err.splitlines(), *last]


def check(line: str, pattern: str, desk: Path, lines: list[str]) -> None:
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert re.search(pattern, lines[0]), lines[0]
    assert sorted(path.name for path in desk.iterdir()) == ["a_file", "empty"], line
    assert not list((desk / "empty").iterdir())


@pytest.mark.parametrize(("line", "pattern"), COMMAND_LINES)
def test_a_mistake_in_a_command_line(
    line: str,
    pattern: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(line, pattern, desk, said(line, monkeypatch, capsys))


@pytest.mark.slow
@pytest.mark.parametrize(("line", "pattern"), WITH_A_MODEL)
def test_a_mistake_that_a_model_or_data_reveal(
    line: str,
    pattern: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(line, pattern, desk, said(line, monkeypatch, capsys))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["train.py", "trainer.max_steps=ten"], "trainer.max_steps=ten must be"),
        (["-m", "mmcompress.cli", "train", "compression=lowrnk"], "did you mean lowrank"),
        (["train.py", "-m", "compression.steps.lowrank.rnk=1,2"], "has no key rnk"),
    ],
)
def test_a_mistake_in_a_process_of_its_own(words: list[str], pattern: str, desk: Path) -> None:
    arguments = [str(project_path(word)) if word == "train.py" else word for word in words]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    check(" ".join(words), pattern, desk, (done.stdout + done.stderr).splitlines())
