"""The configuration of a run, from overrides such as a command line has."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from mmcompress.config.job import FROM_PYTHON
from mmcompress.system.locations import project_path

MAIN = "train"
"""The file of `conf/` that everything else is added to."""


def compose_config(*overrides: str) -> DictConfig:
    """What `python train.py` with these overrides would run.

    Raises:
        hydra.errors.HydraException: an override names what `conf/` does not have.
    """
    with composed_job(overrides) as cfg:
        cfg.name = cfg.name  # Hydra alone says which recipe was chosen, and only in here
        return cfg


@contextmanager
def composed_job(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """What `python train.py` with these overrides would run; inside, Hydra answers as it would.

    Raises:
        ValueError: a text where a list of them belongs.
        hydra.errors.HydraException: an override names what `conf/` does not have.
    """
    if isinstance(overrides, str):
        raise ValueError(f"{overrides!r} is one text: give a list of overrides, [{overrides!r}]")
    folder = str(project_path("conf").resolve())
    with initialize_config_dir(folder, job_name=FROM_PYTHON, version_base="1.3"):
        cfg = compose(MAIN, overrides=list(overrides), return_hydra_config=True)
    state = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        own = cfg.copy()
        with open_dict(own):
            del own["hydra"]
        yield own
    finally:
        HydraConfig.instance().cfg = state


def plain(cfg: DictConfig) -> dict[str, Any]:
    """As dicts, lists and scalars, every interpolation resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
