"""What Hydra knows of the run in this process: the one place that asks it.

Nothing is known of a run whose configuration was made without Hydra; the answers are empty then.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

FROM_PYTHON = "from_python"
"""Name of Hydra's job where `mmcompress.run` composed the configuration from overrides."""


def sweep_folder() -> Path | None:
    """The folder of the sweep that this run is a job of; None for a run by itself."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().sweep.dir)
    return None


def choices() -> Mapping[str, str]:
    """Group → name of the file that was chosen."""
    return HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}


def overrides() -> Sequence[str]:
    """What this run changes in `conf/train.yaml`."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def command() -> str:
    """A command line that starts this run."""
    if HydraConfig.initialized() and HydraConfig.get().job.name == FROM_PYTHON:
        return shlex.join(["python", "train.py", *overrides()])
    return shlex.join([Path(sys.executable).name, *sys.argv])
