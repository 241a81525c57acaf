"""Where a run belongs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mmcompress.config.compose import plain
from mmcompress.config.job import sweep_folder
from mmcompress.records.settings import config_hash


def run_path(cfg: DictConfig) -> Path:
    """`run_dir`, or for a job of a sweep its place in the sweep's folder."""
    sweep = sweep_folder()
    if sweep is None:
        return Path(cfg.run_dir)
    config = plain(cfg)
    return job_folder(sweep, config, config_hash(config))


def job_folder(sweep: Path, config: Mapping[str, Any], config_hash: str) -> Path:
    """Where a job of a sweep runs: the same whenever the same configuration is started again.

    Example:
        >>> job_folder(Path("runs/sweeps/x"), {"name": "4 bits", "seed": 1}, "0" * 16).as_posix()
        'runs/sweeps/x/4_bits-seed1-0000000000000000'
    """
    name = re.sub(r"[^\w.]+", "_", str(config.get("name")))
    return sweep / f"{name}-seed{config.get('seed')}-{config_hash}"
