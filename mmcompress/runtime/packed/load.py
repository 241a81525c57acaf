"""A model whose weights stay as they are stored, in ordinary PyTorch."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from mmcompress.artifact.load import open_backbone, read_manifest
from mmcompress.artifact.skeleton import Skeleton
from mmcompress.backbones.base import Backbone
from mmcompress.format.errors import ArtifactError
from mmcompress.format.reader import Reader
from mmcompress.functional.finite import describe_not_finite
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.modules.replace import replace_module
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.packed.layers import PackedLayer, multiply_integers, pack_layer
from mmcompress.runtime.packed.weight import PackedWeight

ACTIVATIONS = (None, "int8")


class PackedModel(DenseModel):
    """Embeds pictures, texts and sounds with a model that runs its stored codes.

    Args:
        backbone: the model, its weights packed.
        kinds: by name of a weight: `integers multiply`, `rows are looked up`, `decoded for each
            call`, or why it is dense.
    """

    def __init__(self, backbone: Backbone, kinds: Mapping[str, str]) -> None:
        super().__init__(backbone)
        self.kinds = kinds

    def describe(self) -> str:
        """How many weights run in which way, in one line."""
        counts = Counter(self.kinds.values())
        return "; ".join(f"{count} weights: {kind}" for kind, count in counts.most_common())


def load_packed(
    folder: Path, *, activations: str | None = None, skeleton: Skeleton | None = None
) -> PackedModel:
    """The model of an artifact, in evaluation mode, its weights as they are stored.

    Linear layers whose rows have one scale and whose inputs the recipe rounds to at most 8 bits
    multiply whole numbers. All others are decoded for each call: their memory is small, their
    floats are those of `Artifact.load`, and they are slower than it.

    Args:
        folder: of the artifact.
        activations: `int8` rounds the inputs of the other layers with one scale a row as well,
            which the recipe did not: score it before you use it.
        skeleton: builds the dense model, for artifacts of a model of the user's own.
    Raises:
        ArtifactError: anything about the folder is wrong.
        ValueError: unknown `activations`.
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations={activations!r} must be int8 or None")
    with Reader(folder, read_manifest(folder, skeleton)) as reader:
        packed = {name: _pack(reader, name) for name in reader.weights}
        backbone = open_backbone(reader, skeleton, without=packed.keys())
    kinds: dict[str, str] = {}
    aliases = reader.manifest["aliases"]
    for name in [*packed, *(alias for alias, of in aliases.items() if of in packed)]:
        kinds[name] = _place(backbone.model, name, packed[aliases.get(name, name)])
    for path, module in list(backbone.model.named_modules()):
        faster = multiply_integers(module, activations=activations == "int8")
        if faster is not None:
            replace_module(backbone.model, path, faster)
            inner = f"{path}.linear" if isinstance(module, QuantizedInput) else path
            kinds[f"{inner}.weight"] = faster.kind
    return PackedModel(backbone, kinds)


def _pack(reader: Reader, name: str) -> PackedWeight:
    packed = PackedWeight(reader.get(name))
    found = describe_not_finite(packed())
    if found is not None:
        problem = f"{name} holds {found}"
        raise ArtifactError(reader.file_of(name), problem, "compress again, from a finite model")
    return packed


def _place(model: nn.Module, name: str, packed: PackedWeight) -> str:
    """Give the owner of a weight its packed form, and say what became of it."""
    path, _, attribute = name.rpartition(".")
    owner = model.get_submodule(path)
    if isinstance(owner, PackedLayer):  # a module that stands in several places
        return owner.kind
    layer = pack_layer(owner, packed) if attribute == "weight" else None
    if layer is None:
        setattr(owner, attribute, nn.Parameter(packed()))
        return f"dense, for {type(owner).__name__} has no packed form"
    replace_module(model, path, layer)
    return layer.kind
