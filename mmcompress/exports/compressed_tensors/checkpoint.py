"""The folder of a checkpoint with integers: what `from_pretrained` of transformers reads."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.files import FromTransformers
from mmcompress.exports.compressed_tensors import vllm
from mmcompress.exports.compressed_tensors.initialization import looked_for
from mmcompress.exports.compressed_tensors.layers import (
    Held,
    Plan,
    plan,
    quantization_config,
    without_rounding,
)
from mmcompress.exports.dense import check_library
from mmcompress.exports.summary import Contained
from mmcompress.format.reader import Reader, StoredWeight
from mmcompress.system.extras import require_package
from mmcompress.system.files import write_json

CONFIG_FILE = "config.json"

PROGRAMS = ("transformers", "vllm")
"""What the checkpoint is for; the first by default."""

NOTE = (
    "inputs are rounded in steps of max/127.5 there and of max/127 here: embeddings are close to "
    "the artifact's, not equal"
)


def fill_folder(
    artifact: Artifact, folder: Path, *, program: str = PROGRAMS[0]
) -> tuple[list[Contained], str]:
    """Write a checkpoint into a folder that is there and empty.

    Weights are the artifact's, bit for bit: its codes where the format can hold them, else floats.

    Args:
        artifact: of `Artifact.load`.
        program: of `PROGRAMS`.
    Returns:
        What holds each tensor of the checkpoint, and what else is to be known, or nothing.
    Raises:
        ValueError: compressed-tensors is missing, the model comes from elsewhere, no weight has
            integers, or transformers or the program cannot express it.
    """
    require_package("compressed_tensors", extra="compressed-tensors", asks="this export")
    if program not in PROGRAMS:
        raise ValueError(f"target={program!r} must be one of {', '.join(PROGRAMS)}")
    check_library(artifact, "hf")
    assert isinstance(artifact.backbone, FromTransformers)
    backbone, input_bits = without_rounding(artifact.backbone)
    native = backbone.native_model()
    with Reader(artifact.folder, artifact.manifest) as reader:
        aliases = artifact.manifest["aliases"]

        def find(key: str) -> StoredWeight | None:
            name = aliases.get(key, key)
            return reader.get(name) if name in reader.entries else None

        if program == "vllm":
            roles = vllm.DENSE_ROLES
            chosen = plan(backbone, native, find, input_bits=input_bits, dense_roles=roles)
            chosen = Plan(vllm.fitting(chosen.held), chosen.dense)
        else:
            loose = looked_for(native)
            chosen = plan(backbone, native, find, input_bits=input_bits, loose=loose)
    if not chosen.held:
        reasons = ", ".join(sorted(set(chosen.dense.values()))) or "all weights are floats"
        raise ValueError(
            f"{artifact.folder} holds no integers that compressed-tensors can hold ({reasons}): "
            "set --to hf for a dense checkpoint"
        )
    _untie(native, chosen)
    settings = quantization_config(native, chosen.held, lambda path: _saved(native, path))
    tensors = _edit(native, chosen)
    native.save_pretrained(folder)
    backbone.write_settings(folder)
    _complete_config(folder / CONFIG_FILE, settings)
    return tensors, NOTE if input_bits else ""


def _saved(native: PreTrainedModel, path: str) -> str:
    """What transformers calls a layer in a checkpoint."""
    from transformers.core_model_loading import revert_weight_conversion

    found = revert_weight_conversion(native, {f"{path}.weight_scale": torch.empty(1)})
    (name,) = found
    return name.removesuffix(".weight_scale")


def _untie(native: PreTrainedModel, chosen: Plan) -> None:
    """Let layers that share a weight have integers of their own: a format for tied ones is none."""
    parameters = dict(native.named_parameters(remove_duplicate=False))
    places: dict[int, int] = {}
    for parameter in parameters.values():
        places[id(parameter)] = places.get(id(parameter), 0) + 1
    if any(places[id(parameters[f"{path}.weight"])] > 1 for path in chosen.held):
        config: Any = native.config
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            part.tie_word_embeddings = False


def _edit(native: PreTrainedModel, chosen: Plan) -> list[Contained]:
    """Put integers in the place of weights, and floats into 16 bits where that is exact.

    Returns:
        What holds each tensor of the checkpoint.
    """
    tensors: list[Contained] = []
    there: set[int] = set()
    for path, held in chosen.held.items():
        layer = native.get_submodule(path)
        _put_integers(layer, held)
        names = [name for name in layer._parameters if name.startswith("weight")]
        made = [layer.get_parameter(name) for name in names]
        tensors += [Contained(str(held.scheme), parameter.nbytes) for parameter in made]
        there |= {id(parameter) for parameter in made}
    for key, parameter in native.named_parameters():
        if id(parameter) in there:
            continue
        parameter.data = _halved(parameter.data)
        kind = str(parameter.dtype).removeprefix("torch.")
        reason = chosen.dense.get(key)
        name = f"{kind} ({reason})" if reason else kind
        tensors.append(Contained(name, parameter.nbytes, decoded=reason is not None))
    return tensors


def _put_integers(layer: nn.Module, held: Held) -> None:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    codes = torch.from_numpy(held.integers.codes)
    parts = {"weight": codes}
    if held.scheme.packed:
        packed = pack_to_int32(codes, held.scheme.bits)
        parts = {"weight_packed": packed, "weight_shape": torch.tensor(codes.shape)}
    del layer._parameters["weight"]
    for name, tensor in (parts | {"weight_scale": torch.from_numpy(held.integers.scale)}).items():
        layer.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def _halved(tensor: Tensor) -> Tensor:
    """In float16, where that loses nothing."""
    if tensor.dtype != torch.float32:
        return tensor
    halves = tensor.half()
    return halves if torch.equal(halves.float(), tensor) else tensor


def _complete_config(file: Path, settings: dict[str, Any]) -> None:
    """Say how integers are stored, and that the model computes in float32, as the artifact does."""
    config = json.loads(file.read_text("utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = "float32"
    write_json(file, config | {"quantization_config": settings})
