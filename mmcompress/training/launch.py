"""How the processes of one run start; `processes` is what they tell each other then."""

import atexit
import signal
from typing import cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.seed import isolate_rng

from mmcompress.config.job import sweep_folder
from mmcompress.training.sharding import FullySharded


def check_trainer(settings: DictConfig) -> None:
    """Refuse a trainer that cannot be, before a run has a folder and loggers for it.

    Raises:
        ValueError: it needs a GPU and there is none, it would never stop, or its way to start
            processes cannot work here.
        hydra.errors.InstantiationException: what Lightning refuses.
    """
    # `auto` takes what there is. Lightning's message says neither key nor choice.
    if settings.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={settings.accelerator}: PyTorch finds no GPU here; choose "
            "trainer=cpu, or trainer=ddp_cpu for several processes"
        )
    for name in ("gradient_clip_val", "log_every_n_steps"):
        if (settings.get(name) or 0) < 0:
            raise ValueError(f"trainer.{name}={settings[name]} must not be negative")
    if settings.get("val_check_interval") == 0 and settings.get("max_steps") != 0:
        raise ValueError("trainer.val_check_interval=0 must be above 0: after how many steps?")
    trainer = instantiate(settings, logger=False, enable_checkpointing=False)
    _check_strategy(trainer)
    if trainer.max_steps == -1 and trainer.max_epochs == -1 and settings.get("max_time") is None:
        raise ValueError(
            "trainer.max_steps=-1 and trainer.max_epochs=-1 would train for ever: set one of them"
        )


def start_processes(trainer: pl.Trainer) -> None:
    """Bring up all processes of a run now, for calibration, and not when the trainer fits.

    Where nobody else has done so, the command line is run again for each of them. Random numbers go
    on as if nothing had happened.

    Raises:
        ValueError: a strategy that cannot work here, or a sweep that would be started again.
    """
    if trainer.world_size == 1:
        return
    _check_strategy(trainer)
    strategy = trainer.strategy
    launcher = cast("_SubprocessScriptLauncher | None", strategy.launcher)
    if launcher is not None and _starts_processes(launcher):
        atexit.register(launcher.kill, signal.SIGTERM)  # none outlives the first
    with isolate_rng():
        if launcher is None:
            strategy.setup_environment()
        else:
            launcher.launch(strategy.setup_environment)


def _check_strategy(trainer: pl.Trainer) -> None:
    if trainer.world_size == 1:
        return
    strategy, launcher = trainer.strategy, trainer.strategy.launcher
    # Processes that are spawned or forked run one function, and get the model pickled.
    if type(strategy) not in (DDPStrategy, FullySharded) or not isinstance(
        launcher, _SubprocessScriptLauncher | None
    ):
        raise ValueError(
            f"{type(strategy).__name__} cannot work on a model that is being compressed: choose "
            "trainer=ddp or trainer=fsdp"
        )
    if launcher is not None and _starts_processes(launcher):
        _check_no_sweep()


def _starts_processes(launcher: _SubprocessScriptLauncher) -> bool:
    """Whether it has to, for nobody else does."""
    return not launcher.cluster_environment.creates_processes_externally


def _check_no_sweep() -> None:
    if sweep_folder() is not None:
        raise ValueError(
            "several processes per run cannot be started inside a sweep, for each would start the "
            "whole sweep again: run the jobs one by one without -m, or set trainer.devices=1, or "
            "let Slurm start one task per process (hydra/launcher=slurm)"
        )
