"""Models of no library: the packaged classifier, and the worked example of a user's own."""

import importlib.util
import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.mlp import MLP
from mmcompress.testing.zoo.family import Family, randomised, seeded

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_model"


def _mlp(folder: Path) -> Backbone:
    with seeded():
        return randomised(MLP(hidden=[64, 64])).eval()


def _own_model(folder: Path) -> Backbone:
    """As `--config-dir . backbone=own_model` builds it in its folder, which is on no path here."""
    spec = importlib.util.spec_from_file_location("own_model", EXAMPLE / "own_model.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["own_model"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with seeded():
        config = OmegaConf.load(EXAMPLE / "backbone" / "own_model.yaml")
        return randomised(instantiate(config)).eval()


FAMILIES = [Family("mlp", _mlp), Family("own_model", _own_model)]
