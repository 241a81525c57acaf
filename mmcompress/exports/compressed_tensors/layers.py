"""Which layers of a model keep their integers, and what says so in its config."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from mmcompress.backbones.hf.files import FromTransformers
from mmcompress.backbones.native import native_state
from mmcompress.exports.compressed_tensors.initialization import empty_like
from mmcompress.exports.compressed_tensors.integers import Integers, integers_of
from mmcompress.exports.compressed_tensors.patterns import patterns_of
from mmcompress.format.reader import StoredWeight
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.modules.replace import replace_module

Find = Callable[[str], StoredWeight | None]
"""A tensor of an artifact by its key in the state dict; None where it has none."""

BYTE = 8


@dataclass(frozen=True)
class Scheme:
    """How the layers of one group are stored and what they read.

    Attributes:
        bits: of a code.
        group_size: columns that share a scale; None where a row has one.
        input_bits: of what the layers read, a scale for each token; 0 for floats.
        loose: codes are bytes, whatever their width, for the layers have to have a `weight`.
    """

    bits: int
    group_size: int | None
    input_bits: int = 0
    loose: bool = False

    @property
    def packed(self) -> bool:
        """Whether codes lie in words of 32 bits; as int8 where integers may multiply."""
        multiplies = self.bits == self.input_bits == BYTE and self.group_size is None
        return not (multiplies or self.loose)

    @property
    def format(self) -> str:
        """Its name in compressed-tensors."""
        return "pack-quantized" if self.packed else "int-quantized"

    def __str__(self) -> str:
        scale = f"groups of {self.group_size}" if self.group_size else "a scale per row"
        inputs = f", inputs of {self.input_bits} bits per token" if self.input_bits else ""
        return f"{self.bits}-bit integers, {scale}{inputs} ({self.format})"

    def settings(self) -> dict[str, Any]:
        """As `config_groups` of a config holds it, without targets."""
        strategy = {"strategy": "channel"}
        if self.group_size is not None:
            strategy = {"strategy": "group", "group_size": self.group_size}  # type: ignore[dict-item]
        whole = {"type": "int", "symmetric": True}
        inputs = None
        if self.input_bits:
            inputs = {"num_bits": self.input_bits, **whole, "strategy": "token", "dynamic": True}
        return {
            "weights": {"num_bits": self.bits, **whole, **strategy, "dynamic": False},
            "input_activations": inputs,
            "output_activations": None,
            "format": self.format,
        }


@dataclass(frozen=True)
class Held:
    """A layer that keeps its integers.

    Attributes:
        integers: its weight.
        scheme: its group's.
    """

    integers: Integers
    scheme: Scheme


@dataclass(frozen=True)
class Plan:
    """What becomes of the weights of a model of transformers.

    Attributes:
        held: layers that keep integers, by name.
        dense: why an encoded weight stays floats, by its key.
    """

    held: Mapping[str, Held]
    dense: Mapping[str, str]


def without_rounding(backbone: FromTransformers) -> tuple[FromTransformers, dict[str, int]]:
    """A copy, on the same tensors, whose layers read floats; and by key of a weight, the bits of
    what its layer read.

    Raises:
        ValueError: a layer does more to its inputs than rounding them.
    """
    tensors: list[Tensor] = [*backbone.parameters(), *backbone.buffers()]
    made = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    bits: dict[str, int] = {}
    for path, module in list(made.model.named_modules()):
        if isinstance(module, QuantizedInput):
            if module.smoothing is not None:
                raise ValueError(
                    f"{path} divides its inputs by a vector before it rounds them, which "
                    "compressed-tensors cannot express: compress with smoothing=null, or set "
                    "--to onnx"
                )
            bits[f"{path}.linear.weight"] = module.bits
            replace_module(made.model, path, module.linear)
    return made, bits


def plan(
    backbone: FromTransformers,
    native: PreTrainedModel,
    find: Find,
    *,
    input_bits: Mapping[str, int],
    loose: Collection[str] = (),
    dense_roles: tuple[str, ...] = (),
) -> Plan:
    """Choose what each weight becomes.

    Args:
        backbone: of `without_rounding`.
        native: its `native_model`.
        find: the weights as they are stored.
        input_bits: of `without_rounding`.
        loose: layers that need a `weight`.
        dense_roles: whose weights must be floats.
    Raises:
        ValueError: a layer reads integers, and its weight has none.
    """
    model: nn.Module = backbone.model
    ours = {_identity(p): _original(name, input_bits) for name, p in model.named_parameters()}
    held: dict[str, Held] = {}
    dense: dict[str, str] = {}
    rounds = dict(input_bits)
    for key, tensor in native_state(model).items():
        name = ours.get(_identity(tensor))
        stored = find(name) if name is not None else None
        if name is None or stored is None or stored.chain is None:
            continue
        path, _, attribute = key.rpartition(".")
        found = _holdable(native.get_submodule(path), attribute, stored, dense_roles)
        if isinstance(found, str):
            dense[key] = found
            continue
        inputs = rounds.pop(name, 0)
        if path in loose:
            held[path] = Held(found, Scheme(BYTE, found.group_size, inputs, loose=True))
        else:
            held[path] = Held(found, Scheme(found.bits, found.group_size, inputs))
    if rounds:
        name = next(iter(rounds)).removesuffix(".linear.weight")
        raise ValueError(
            f"{name} rounds its inputs and its weight is stored as no integers, which "
            "compressed-tensors cannot express: quantize its weight too, or keep the artifact"
        )
    return Plan(held, dense)


def _holdable(
    layer: nn.Module, attribute: str, stored: StoredWeight, dense_roles: tuple[str, ...]
) -> Integers | str:
    linear = type(layer) is nn.Linear
    # Of other tables the library reads `weight` itself, which is not there while it is packed.
    words = type(layer) is nn.Embedding and stored.entry.role == "embed"
    if attribute != "weight" or not (linear or words):
        return "neither a linear layer nor an embedding of words"
    if stored.entry.role in dense_roles:
        return f"{stored.entry.role}, which the target reads as floats"
    return integers_of(stored)


def quantization_config(
    native: PreTrainedModel, held: Mapping[str, Held], saved: Callable[[str], str]
) -> dict[str, Any]:
    """What `quantization_config` in config.json says.

    Args:
        native: the model that is written.
        held: its layers with integers.
        saved: name of a layer in the checkpoint, of its name in the model.
    """
    # What is loaded may have a pooler that is not written; it would wait for integers.
    quantizable = {
        path: (path, saved(path))
        for model in (native, empty_like(native))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    groups: dict[Scheme, list[str]] = {}
    for path, layer in held.items():
        groups.setdefault(layer.scheme, []).append(path)
    tables = {path for path in held if isinstance(native.get_submodule(path), nn.Embedding)}
    alike = len({layer.scheme for path, layer in held.items() if path not in tables}) == 1

    def targets(paths: list[str]) -> list[str]:
        others = [names for path, names in quantizable.items() if path not in paths]
        # The name of the class says the same, and more programs know it.
        named = [path for path in paths if path in tables or not alike]
        kinds = ["Linear"] if len(named) < len(paths) else []
        return kinds + patterns_of([quantizable[path] for path in named], others)

    rest = [names for path, names in quantizable.items() if path not in held]
    formats = {scheme.format for scheme in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "ignore": patterns_of(rest, [quantizable[path] for path in held]),
        "config_groups": {
            f"group_{number}": {"targets": targets(groups[scheme]), **scheme.settings()}
            for number, scheme in enumerate(sorted(groups, key=lambda scheme: scheme.loose))
        },
    }


def _identity(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def _original(name: str, input_bits: Mapping[str, int]) -> str:
    """The name of a weight before its layer read floats."""
    rounded = f"{name.removesuffix('weight')}linear.weight"
    return rounded if rounded in input_bits else name
