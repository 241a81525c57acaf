"""What `import mmcompress` gives: a model in, a smaller one out, and what can be done with it."""

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import Tensor

from mmcompress.artifact.folder import Artifact, artifact_folder
from mmcompress.backbones.base import Backbone, Prepares
from mmcompress.compression import catalog
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.recipe import Recipe
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import root_cause
from mmcompress.config.validation import check_settings, takes
from mmcompress.data.base import PairData
from mmcompress.data.pairs import GivenPairs
from mmcompress.evaluation.base import Comparison, Evaluator
from mmcompress.evaluation.evaluate import evaluate as score
from mmcompress.exports.targets import export as write
from mmcompress.exports.targets import target_of
from mmcompress.runtime.base import Embedder
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.deployed import Deployed
from mmcompress.runtime.graphs import GraphModel
from mmcompress.runtime.loading import Scored, open_model, to_score
from mmcompress.search.budget import Budget
from mmcompress.search.planning import check, compress_within
from mmcompress.system.locations import project_path

Pairs = Sequence[tuple[Any, str | Sequence[str]]]
"""Of a picture (path, PIL image or tensor) or a sound (path or (samples, rate)), and its text."""


def load(
    folder: str | Path,
    runtime: str = "dense",
    *,
    device: str | torch.device = "cpu",
    skeleton: Callable[[], Backbone] | None = None,
) -> Embedder[Tensor]:
    """A compressed model that embeds pictures, texts or sounds.

    Runs no code from the folder and needs no network: tokenizer and preprocessing come with it.
    A process without torch loads an export by `mmcompress.runtime.onnx.OnnxModel`.

    Args:
        folder: of an artifact, of the run that made it, or of an export for `onnx` or `openvino`.
        runtime: `dense` decodes every weight to float32; `packed` keeps the stored integers in
            memory and multiplies with them where PyTorch can; `onnx` runs them in ONNX Runtime and
            `openvino` in OpenVINO: an artifact is exported to the user's cache directory when it
            is first loaded.
        device: where it runs.
        skeleton: builds the dense model, for artifacts of a model of your own (`Custom`).
    Raises:
        ValueError: no such runtime, or anything about the folder is wrong.

    Example:
        >>> import mmcompress as mmc
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp()) / "small"
        >>> artifact = mmc.compress(mmc.backbone("mini"), "int8", modality="text").save(folder)
        >>> mmc.load(folder).embed_texts(["red heart"]).shape
        torch.Size([1, 192])
    """
    return open_model(Path(folder), runtime, device=device, skeleton=skeleton)


def backbone(name: str = "mini", /, **settings: Any) -> Backbone:
    """A dense model, to compress or to use.

    Args:
        name: of a file in `conf/backbone/`, such as `mini`, `open_clip` or `hf`.
        **settings: of that file, such as `name="ViT-B-32", pretrained=None` of `open_clip`.
    Raises:
        ValueError: no such name or setting, or the model cannot be had.

    Example:
        >>> import mmcompress as mmc
        >>> mmc.backbone("mini").modalities
        ('image', 'text')
    """
    cfg = compose_config(f"backbone={_choice('backbone', name)}")
    _set(name, cfg.backbone, settings)
    return _make(cfg, "backbone")


def recipes() -> dict[str, str]:
    """Name → idea of every recipe, in one line; `mmcompress recipes NAME` explains its settings.

    Example:
        >>> import mmcompress as mmc
        >>> mmc.recipes()["wanda"]
        'W ⊙ M by |W| ‖X‖ within each output row (Wanda, arXiv:2306.11695).'
    """
    return {name: card.idea for name, card in catalog.recipes().items()}


def compress(
    backbone: Backbone,
    recipe: str | Recipe,
    *,
    data: PairData | Pairs | str | None = None,
    budget: float | None = None,
    **settings: Any,
) -> Compressed:
    """A compressed copy of a model, without fine-tuning; the model itself stays as it is.

    Args:
        backbone: the dense model, in float32.
        recipe: name of a file in `conf/compression/` (`recipes` lists them), or a `Recipe`.
        data: what calibration sees: a list of pairs (picture, text) or (sound, text), a `PairData`,
            whose `train` split is used, or the name of a file in `conf/data/`. Recipes that look at
            weights alone need none.
        budget: dense bytes / stored bytes to reach: each layer gets what loses least within it.
        **settings: of the recipe's step, such as `group_size=32`; where several steps have a
            setting of that name, `STEP={"group_size": 32}`.
    Returns:
        What `save(folder)` writes to a folder.
    Raises:
        ValueError: no such recipe or setting, the recipe needs data and there are none, or it does
            not apply to this model.

    Example:
        >>> import mmcompress as mmc
        >>> from PIL import Image
        >>> pairs = [(Image.new("RGB", (64, 64), c), f"{c} square") for c in ("red", "blue")]
        >>> small = mmc.compress(mmc.backbone("mini"), "wanda", data=pairs, sparsity=0.6)
        >>> round(small.coverage["wanda"], 2)
        0.99
    """
    made, limit = _recipe(recipe, settings), Budget(ratio=budget)
    small = copy.deepcopy(backbone)
    check(made, limit, small)
    batches = [] if data is None else _calibration(data, small)
    return compress_within(made, limit, small, batches)[0]


def evaluate(
    model: Artifact | Backbone | DenseModel | GraphModel | str | Path,
    *,
    data: PairData | Pairs | str,
    runtime: str = "dense",
    evaluators: str | Mapping[str, Evaluator | Comparison] = "default",
    split: str = "test",
    dense: Backbone | None = None,
) -> dict[str, float]:
    """Name → value of every metric, by the evaluators that runs use.

    Args:
        model: what `load` gives, an `Artifact`, the folder of one or of an export, or a dense
            `Backbone`.
        runtime: what runs an artifact or a folder: of `load`.
        data: a `PairData`, the name of a file in `conf/data/`, or a list of pairs (picture, text)
            or (sound, text), which then are the split.
        evaluators: by name, in the order in which they run, or the name of a file in
            `conf/evaluation/`.
        split: of the data; choose settings on `val`, report `test`.
        dense: the dense model, for evaluators that compare with it (`agreement`).
    Raises:
        ValueError: no such split, or a metric or an embedding that is NaN or infinite.

    Example:
        >>> import mmcompress as mmc
        >>> from PIL import Image
        >>> pairs = [(Image.new("RGB", (64, 64), c), f"{c} circle") for c in ("red", "blue")]
        >>> sorted(mmc.evaluate(mmc.backbone("mini"), data=pairs))[:2]
        ['retrieval/i2t_r@1', 'retrieval/i2t_r@10']
    """
    scored = _scored(model, runtime)
    chosen = _evaluators(evaluators) if isinstance(evaluators, str) else evaluators
    return score(scored.encode, _data(data, split, scored.prepares), chosen, split, dense=dense)


def export(
    artifact: Artifact | str | Path,
    *,
    to: str,
    out: str | Path,
    activations: str | None = None,
    data: PairData | Pairs | str | None = None,
    target: str | None = None,
    test: bool = False,
) -> Path:
    """The folder of an artifact as another library or runtime loads it.

    Args:
        artifact: an `Artifact`, its folder, or that of its run.
        to: `open_clip`, or `hf` for transformers: a dense checkpoint of the library that the model
            comes from, with no trace of mmcompress. `onnx`, `openvino`: graphs that ONNX Runtime
            or OpenVINO runs with the stored integers. `compressed-tensors`: a checkpoint that
            transformers loads and whose weights stay integers.
        out: folder to create.
        activations: `int8` makes the inputs of linear layers integers as well (`onnx`);
            `static_int8` does it between ends that `data` show (`onnx`, `openvino`).
        data: of `compress`, for `static_int8`.
        target: `transformers` or `vllm`, which keeps embeddings and head dense
            (`compressed-tensors`).
        test: load what was written with the other library, and compare embeddings of 32 items.
    Raises:
        ValueError: the model comes from elsewhere, the target cannot express it, what was loaded
            differs, or `out` exists.

    Example:
        >>> import mmcompress as mmc
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> artifact = mmc.compress(mmc.backbone("mini"), "none").save(folder / "small")
        >>> sorted(file.name for file in mmc.export(artifact, to="hf", out=folder / "hf").iterdir())
        ['config.json', 'model.safetensors', 'preprocessor_config.json', 'tokenizer.json', \
'tokenizer_config.json']
    """
    target_of(to)
    if not isinstance(artifact, Artifact):
        artifact = Artifact.load(artifact_folder(Path(artifact)))
    batches = None if data is None else _calibration(data, artifact.backbone)
    write(
        artifact,
        to,
        Path(out),
        activations=activations,
        batches=batches,
        program=target,
        test=test,
    )
    return Path(out)


def _evaluators(name: str) -> dict[str, Evaluator | Comparison]:
    return _make(
        compose_config(f"evaluation={_choice('evaluation', name)}"), "evaluation"
    ).evaluators


def _scored(model: Any, runtime: str) -> Scored:
    if isinstance(model, Compressed):
        raise ValueError("save it first: what is scored is what was stored, evaluate(x.save(…))")
    if isinstance(model, str | Path):
        return to_score(Path(model), runtime)
    if isinstance(model, GraphModel):
        deployed = Deployed(model)
        return Scored(deployed, deployed)
    if isinstance(model, Artifact) and runtime != "dense":
        return to_score(model.folder, runtime)
    backbone = model if isinstance(model, Backbone) else model.backbone
    return Scored(backbone, backbone)


def _recipe(recipe: str | Recipe, settings: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        if settings:
            given = ", ".join(settings)
            raise ValueError(f"{given}: set it in the Recipe, or give a recipe by its name")
        return recipe
    cfg = compose_config(f"compression={_choice('compression', recipe)}")
    for name, value in settings.items():
        _set_step(recipe, cfg.compression.steps, name, value)
    return _make(cfg, "compression")


def _make(cfg: DictConfig, group: str) -> Any:
    """What a group of the configuration describes; errors say what is wrong with a setting."""
    check_settings(cfg, group)
    try:
        return instantiate(cfg[group])
    except InstantiationException as error:
        raise root_cause(error) from error


def _set_step(recipe: str, steps: DictConfig, name: str, value: Any) -> None:
    """A setting of the step that has it, or the settings of the step that is called so."""
    if name in steps and isinstance(value, Mapping):
        _set(recipe, steps[name], value)
        return
    owners = [
        str(step) for step in steps if name in steps[step] or takes(steps[step]._target_, name)
    ]
    if len(owners) > 1:
        example = f'{owners[0]}={{"{name}": {value!r}}}'
        raise ValueError(f"{name}: the steps {', '.join(owners)} all have it; say which: {example}")
    owner = owners[0] if owners else next(iter(steps), None)
    if owner is None:
        raise ValueError(f"{name}={value!r}: the recipe {recipe} has no step that could have it")
    _set(recipe, steps[owner], {name: value})


def _set(owner: str, cfg: DictConfig, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        known = [str(key) for key in cfg if not str(key).startswith("_")]
        if name not in known and not takes(cfg._target_, name):
            raise ValueError(f"{owner} has no setting {name}; it has {', '.join(known) or 'none'}")
        with open_dict(cfg):
            cfg[name] = str(value) if isinstance(value, Path) else value


def _calibration(data: PairData | Pairs | str, backbone: Prepares) -> list[dict[str, Tensor]]:
    return list(_data(data, "train", backbone).calibration_dataloader())


def _data(data: PairData | Pairs | str, split: str, backbone: Prepares) -> PairData:
    """Data that the backbone prepares."""
    if isinstance(data, str):
        data = _make(compose_config(f"data={_choice('data', data)}"), "data")
    elif not isinstance(data, PairData):
        data = GivenPairs({split: data})
    assert isinstance(data, PairData)
    data.attach(backbone)
    return data


def _choice(group: str, name: str) -> str:
    """The name, once a file of `conf/` is found to have it."""
    names = sorted(path.stem for path in (project_path("conf") / group).glob("*.yaml"))
    if name not in names:
        near = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}"
        raise ValueError(f"there is no {group} {name!r}; {hint}")
    return name
