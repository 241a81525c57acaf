"""The configuration of `train.py`, for the programs beside it."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from mmcompress.system.locations import project_path


def compose_config(*overrides: str) -> DictConfig:
    """What `python train.py` with these overrides would run.

    Raises:
        hydra.errors.HydraException: an override names what `conf/` does not have.
    """
    with initialize_config_dir(str(project_path("conf").resolve()), version_base="1.3"):
        return compose("train", overrides=list(overrides))
