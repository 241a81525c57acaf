"""What a table at scale=full needs and does not find: asked before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants

from mmcompress.backbones.hub import hub_reachable
from mmcompress.config.compose import compose_config
from mmcompress.papers.table import PaperTable, jobs


def missing(table: PaperTable, settings: Mapping[str, Any]) -> str:
    """One sentence that names weights, data and hardware; empty when nothing is missing.

    The model hub is asked once whether it answers, and nothing is downloaded.

    Args:
        settings: content of conf/reproduce.yaml.
    """
    absent = [
        f"{data} ({settings['data'][data]['what']}: give paths.{data}=FOLDER)"
        for data in dict.fromkeys(column.data for column in table.columns)
        if not _exists(settings["paths"].get(data))
    ]
    backbones = {
        job.row: compose_config(*job.overrides).backbone for job in jobs(table, "full", settings)
    }
    weights = list(dict.fromkeys(filter(None, map(repository, backbones.values()))))
    unseen = [name for name in weights if not in_cache(name)]
    if unseen and not hub_reachable():
        absent.append(
            f"weights of {', '.join(unseen)} (the model hub cannot be reached and they are not in "
            "its cache)"
        )
    if not absent:
        return ""
    return (
        f"table={table.name} scale=full needs {'; and '.join(absent)}. Hardware: {table.hardware}"
    )


def _exists(path: str | None) -> bool:
    return path is not None and Path(path).is_dir()


def repository(backbone: Mapping[str, Any]) -> str | None:
    """Where the model hub has a backbone's weights; None for a file or folder of the user's."""
    if "name_or_path" in backbone:
        place = backbone["name_or_path"]
        return None if Path(place).is_dir() else place
    tag = backbone.get("pretrained")
    if tag is None or Path(tag).is_file():
        return None
    hub = open_clip.get_pretrained_cfg(backbone["name"], tag).get("hf_hub", "")
    owner, name = hub.split("/")[:2]
    return f"{owner}/{name}"


def in_cache(name: str) -> bool:
    """Whether an earlier download of a repository lies in the hub's cache."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return folder.is_dir() and any(folder.iterdir())
