"""How the processes of one run start; `processes` is what they tell each other then."""

import atexit
import signal

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.seed import isolate_rng

from mmcompress.sharding import FullySharded


def start_processes(trainer: pl.Trainer) -> None:
    """Bring up all processes of a run now, for calibration, and not when the trainer fits.

    Where nobody else has done so, the command line is run again for each of them. Random numbers go
    on as if nothing had happened.

    Raises:
        ValueError: a strategy that cannot work here, or a sweep that would be started again.
    """
    if trainer.world_size == 1:
        return
    strategy = trainer.strategy
    launcher = strategy.launcher
    # Processes that are spawned or forked run one function, and get the model pickled.
    if type(strategy) not in (DDPStrategy, FullySharded) or not isinstance(
        launcher, _SubprocessScriptLauncher | None
    ):
        raise ValueError(
            f"{type(strategy).__name__} cannot work on a model that is being compressed: choose "
            "trainer=ddp or trainer=fsdp"
        )
    if launcher is not None and not launcher.cluster_environment.creates_processes_externally:
        _check_no_sweep()
        atexit.register(launcher.kill, signal.SIGTERM)  # none outlives the first
    with isolate_rng():
        if launcher is None:
            strategy.setup_environment()
        else:
            launcher.launch(strategy.setup_environment)


def _check_no_sweep() -> None:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            "several processes per run cannot be started inside a sweep, for each would start the "
            "whole sweep again: run the jobs one by one without -m, or set trainer.devices=1, or "
            "let Slurm start one task per process (hydra/launcher=slurm)"
        )
