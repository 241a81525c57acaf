"""Keys and `_target_` values of the configuration that had another name once."""

MOVED = {"compression.budget": "budget"}
"""Keys that have another name now."""

MOVED_TARGETS = {
    "mmcompress.artifact.artifact.backbone_in": "mmcompress.artifact.folder.backbone_in",
    "mmcompress.backbones.hf.from_pretrained": "mmcompress.backbones.hf.two_towers.from_pretrained",
    "mmcompress.backbones.hf.untrained": "mmcompress.backbones.hf.two_towers.untrained",
    "mmcompress.backbones.hf_clip.HFClip.from_pretrained": (
        "mmcompress.backbones.hf.clip.HFClip.from_pretrained"
    ),
    "mmcompress.backbones.hf_clip.HFClip.mini": "mmcompress.backbones.hf.clip.HFClip.mini",
    "mmcompress.backbones.hf_generative.from_pretrained": (
        "mmcompress.backbones.hf.generative.from_pretrained"
    ),
    "mmcompress.backbones.hf_text.HFText.from_folder": (
        "mmcompress.backbones.hf.sentence.HFText.from_folder"
    ),
    "mmcompress.backbones.hf_text.HFText.minilm": "mmcompress.backbones.hf.sentence.HFText.minilm",
    "mmcompress.backbones.open_clip.OpenClip.from_pretrained": (
        "mmcompress.backbones.open_clip.backbone.OpenClip.from_pretrained"
    ),
    "mmcompress.checkpoints.Checkpoint": "mmcompress.training.checkpoints.Checkpoint",
    "mmcompress.compression.budget.Budget": "mmcompress.search.budget.Budget",
    "mmcompress.compression.lowrank.lowrank.LowRank": "mmcompress.compression.lowrank.svd.LowRank",
    "mmcompress.data.grey.Digits": "mmcompress.data.grayscale.Digits",
    "mmcompress.data.grey.FashionMNIST": "mmcompress.data.grayscale.FashionMNIST",
    "mmcompress.runs.progress.ProgressBar": "mmcompress.training.progress.ProgressBar",
    "mmcompress.runs.sinks.csv_logger": "mmcompress.tracking.loggers.csv_logger",
    "mmcompress.runs.sinks.mlflow_logger": "mmcompress.tracking.loggers.mlflow_logger",
    "mmcompress.runs.sinks.tensorboard_logger": "mmcompress.tracking.loggers.tensorboard_logger",
    "mmcompress.runs.tracking.wandb_logger": "mmcompress.tracking.weights_and_biases.wandb_logger",
    "mmcompress.sharding.FullySharded": "mmcompress.training.sharding.FullySharded",
    "mmcompress.training.cpu_precision": "mmcompress.training.module.cpu_precision",
    "mmcompress.training.trained": "mmcompress.training.module.trained",
}
"""Values of `_target_` in version 0.1 that are elsewhere now."""


def moved_key(key: str) -> str | None:
    """What to write in place of a key that has another name now; None where it has not.

    Example:
        >>> moved_key("compression.budget.ratio")
        'compression.budget.ratio has moved: write budget.ratio=VALUE'
    """
    for old, new in MOVED.items():
        if key == old or key.startswith(f"{old}."):
            now = new + key.removeprefix(old)
            example = now if "." in now else f"{now}.ratio"
            return f"{key} has moved: write {example}=VALUE"
    return None
