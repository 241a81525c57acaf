"""Weights & Biases: a run there for each run here, online or kept in the run folder."""

import http.client
import logging
import netrc
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from mmcompress.config.job import choices, sweep_folder

log = logging.getLogger(__name__)

DEFAULT_HOST = "https://api.wandb.ai"
INIT_SECONDS = 30.0
"""How long to wait for the server before a run goes on offline."""
CONNECT_SECONDS = 3.0
"""How long to wait for any answer at all before that."""
FINISH_SECONDS = 300.0
"""How long to wait at the end for what is still to be sent; the rest stays in the run folder."""
FLUSH_SECONDS = 1.0
"""How often W&B writes to the run folder; what came later is lost when the process is killed."""
LONGEST_TAG, LONGEST_GROUP = 64, 128
"""Characters that W&B allows."""

Mode = Literal["online", "offline", "disabled"]


def wandb_mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """`WANDB_MODE` where it is set; else online with a login and offline without one.

    A login is an API key or an identity token in the environment, or an entry for the host in the
    netrc file, where `wandb login` puts it. The network is not touched.

    Raises:
        ValueError: `WANDB_MODE` is something else.
    """
    given = environment.get("WANDB_MODE")
    modes: dict[str, Mode] = {
        "online": "online",
        "run": "online",
        "offline": "offline",
        "dryrun": "offline",
        "disabled": "disabled",
    }
    if given is not None:
        if given not in modes:
            raise ValueError(f"WANDB_MODE={given!r} must be one of {', '.join(modes)}")
        return modes[given]
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    has_key = any(environment.get(key) for key in keys) or _in_netrc(environment)
    return "online" if has_key else "offline"


def _in_netrc(environment: Mapping[str, str]) -> bool:
    host = urlsplit(environment.get("WANDB_BASE_URL", DEFAULT_HOST)).netloc
    named = environment.get("NETRC")
    home = Path.home()
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (FileNotFoundError, PermissionError):
            continue
        except netrc.NetrcParseError as error:
            log.warning("%s cannot be read (%s): no W&B login taken from it", path, error)
    return False


def wandb_logger(
    *,
    save_dir: str | Path,
    project: str = "mmcompress",
    entity: str | None = None,
    group: str | None = None,
    job_type: str = "compress",
    name: str | None = None,
    tags: Sequence[str] = (),
) -> Logger:
    """Start a W&B run, quietly; Lightning logs to it by step.

    Without a login, or when the server does not answer, the run is kept in `save_dir` and one
    line says how to send it later. A run that goes on from a checkpoint goes on in its W&B run
    when both are online. End it with `finish`.

    Args:
        save_dir: the run folder; W&B makes `wandb/` in it.
        group: what a sweep's runs have in common; the sweep's name when None.
        tags: beside the names of recipe, backbone and data.
    Returns:
        A logger that does nothing where W&B cannot even write to `save_dir`.
    """
    sweep, chosen = sweep_folder(), choices()
    if group is None and sweep is not None:
        group = sweep.name[:LONGEST_GROUP]
    tags = [*(chosen[key] for key in ("compression", "backbone", "data") if key in chosen), *tags]
    init = partial(
        wandb.init,
        project=project,
        entity=entity,
        group=group,
        job_type=job_type,
        name=name,
        tags=[tag[:LONGEST_TAG] for tag in tags],
        dir=str(save_dir),
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        ),
    )
    mode = wandb_mode()
    reason = "WANDB_MODE=offline" if "WANDB_MODE" in os.environ else "no login"
    if mode == "online":
        silence = no_answer(os.environ.get("WANDB_BASE_URL", DEFAULT_HOST))
        if silence is not None:
            mode, reason = "offline", silence
    earlier = _online_id(Path(save_dir)) if mode == "online" else None
    before = _run_folders(Path(save_dir))
    try:
        try:
            run = init(mode=mode, id=earlier, resume="allow" if earlier else None)
        except wandb.Error as error:
            wandb.teardown()
            for folder in _run_folders(Path(save_dir)) - before:
                shutil.rmtree(folder, ignore_errors=True)  # nothing was sent, nothing is in it
            mode, reason = "offline", " ".join(str(error).split())
            run = init(mode=mode)
    except (wandb.Error, OSError) as error:
        wandb.teardown()
        log.warning("W&B: not even kept offline (%s); the run goes on without it", error)
        return DummyLogger()
    # Lightning would do both, and would hand wandb.init an option that it warns about.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("train/loss", summary="min,last")
    if mode == "offline":
        folder = Path(run.dir).parent
        runs = folder.parent / "offline-run-*"
        log.info("W&B: kept offline (%s); send it with: wandb sync %s", reason, runs)
    return WandbLogger(experiment=run, project=project, save_dir=str(save_dir))


def no_answer(url: str, seconds: float = CONNECT_SECONDS) -> str | None:
    """Why a server cannot be reached; None when it answers, whatever it says.

    Looking up its name has no time limit, so that is done in a thread that may be left behind.
    """
    found: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                found.append(None)
        except urllib.error.HTTPError as answer:
            answer.close()
            found.append(None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            found.append(f"{url} cannot be reached: {getattr(error, 'reason', error)}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else f"{url} does not answer within {seconds:g} s"


def _run_folders(save_dir: Path) -> set[Path]:
    return set((save_dir / "wandb").glob("run-*-*"))


def _online_id(save_dir: Path) -> str | None:
    """Of the W&B run that an earlier start of this run has begun online; None where there is none.

    W&B calls the folder of such a run `run-<date>-<id>`.
    """
    folders = sorted(_run_folders(save_dir))
    return folders[-1].name.rpartition("-")[2] if folders else None


def finish(*, failed: bool = False) -> None:
    """End the W&B run of this job, if there is one; for a `finally`.

    Without it the next job of a sweep would write into this one's run.
    """
    if wandb.run is None:
        return
    try:
        wandb.finish(exit_code=int(failed))
    except (wandb.Error, OSError) as error:
        log.warning("W&B: the run did not end cleanly (%s); local results are complete", error)
