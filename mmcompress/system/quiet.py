"""Libraries say on the console what says nothing about a run: that is left out."""

import logging
import sys
import warnings

LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.distributed",
    "httpx",
    "datasets",
    "huggingface_hub",
    "onnx_ir",
    "onnxscript",
)
"""What they announce below a warning: devices, tips, services, requests."""

SPEAKERS = (
    "lightning_fabric|pytorch_lightning|torch|torchvision|transformers|open_clip|timm|tokenizers"
    "|huggingface_hub|datasets|sklearn|scipy|wandb|pydantic|PIL|soundfile|joblib"
)
"""Packages whose Python warnings are for who writes code with them."""


def quiet_libraries() -> None:
    """Leave out their tips, deprecations and bars; errors and what a log of ours says stay. Call it
    when the libraries in use are imported.

    `python -W default train.py …` shows the warnings.
    """
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=rf"({SPEAKERS})(\.|$)")
