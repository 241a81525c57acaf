"""What mmcompress needs of every model: its inputs, what may be compressed, how it is rebuilt."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from mmcompress.backbones.examples import Example
from mmcompress.backbones.passes import Batch, Pass
from mmcompress.format.parts import usual_part
from mmcompress.functional.finite import check_weights
from mmcompress.modules.anatomy import attentions_of, find_stacks, heads_of, mlp_of

WEIGHTS = ("linear", "embedding", "conv", "grouped_conv", "matrix")
"""Granularities of weights."""

UNOBSERVED = ("grouped_conv", "matrix")
"""Of these those whose inputs are not collected in calibration."""

WITHOUT_MOMENT = ("embedding", *UNOBSERVED)
"""Of these those without a matrix of input moments; data-aware methods fall back on the weight."""

UNITS = ("attention", "mlp", "block", "stack", "model")
"""Granularities of whole modules."""


UNNAMED_ROLES = {
    "linear": "linear",
    "embedding": "embed",
    "conv": "conv",
    "grouped_conv": "conv",
}
"""Role of a layer that no row of an adapter names, so that none is passed over."""


Row = tuple[str, str, str]
"""Pattern of a weight's path, modality, role."""


@dataclass(frozen=True)
class Target:
    """One place that may be compressed: a weight, or a whole module.

    Attributes:
        module: dotted path, inside `backbone.model`, of the module, or of the weight's owner.
        parameter: the weight's name in that module; empty for a whole module.
        modality: `image`, `text`, `audio` or `shared`.
        role: what the weight does: `attn.q`, `mlp.up`, `embed`, `patch`, `proj`, …; `linear` or
            `conv` where the adapter has no name for it; the granularity again for a whole module.
        granularity: of a weight: `linear`, `embedding`, `conv`, `grouped_conv` (each output reads
            a part of the channels, as in a depthwise convolution), or `matrix` (a bare parameter,
            no module of its own); of a module: `attention` (projections of all heads), `mlp` (its
            two layers), `block` (one transformer layer), `stack` (the list of a tower's blocks),
            `model` (everything, path "").
        heads: of an attention, how many it has; else 0.
        part: of the model, one of `format.parts.PARTS`: `vision_tower`, `projector`, …; the usual
            one of tower and role when empty.
    """

    module: str
    parameter: str
    modality: str
    role: str
    granularity: str
    heads: int = 0
    part: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "part", self.part or usual_part(self.modality, self.role))

    @property
    def name(self) -> str:
        """Of a weight, its key in `backbone.model.state_dict()`; of a module, its path."""
        return ".".join(part for part in (self.module, self.parameter) if part)


class Prepares(Protocol):
    """What makes a model's inputs: a backbone, or an export of one. See `Backbone`."""

    modalities: tuple[str, ...]
    sampling_rate: int

    @property
    def reads_alpha(self) -> bool: ...

    @property
    def window(self) -> float | None: ...

    def preprocess(self, image: Any) -> Tensor: ...

    def preprocess_audio(self, waveforms: Sequence[Tensor]) -> Tensor: ...

    def tokenize(self, texts: Sequence[str]) -> Tensor: ...

    @property
    def reads_examples(self) -> bool: ...

    def prepare(self, examples: Sequence[Example]) -> Batch: ...


class Backbone(nn.Module, ABC):
    """A multimodal model around a library's.

    A subclass inherits what it can do from `mmcompress.backbones.capabilities`. It sets the class
    attributes and implements the capability's methods, `preprocess`, `tokenize`, `spec` and
    `from_spec`; `targets` and the rest follow from them.

    Raises:
        ValueError: the model's weights are not finite.
    """

    adapter: ClassVar[str]
    """What artifacts call the class: a key of `mmcompress.backbones.adapters.ADAPTERS`."""

    library: ClassVar[str] = ""
    """Where the model comes from, as `mmcompress export --to` calls it: `open_clip` or `hf`."""

    modalities: tuple[str, ...] = ("image", "text")

    roles: Sequence[Row]
    """Rows (pattern, modality, role): the first pattern that matches a whole weight path wins.

    Bare parameters that no row matches are no targets; layers get their granularity as a role.
    """

    tower_prefixes: ClassVar[Sequence[tuple[str, str]]]
    """Rows (pattern, modality): which tower a tensor lies in, by the start of its name."""

    part_prefixes: Sequence[tuple[str, str]] = ()
    """Rows (pattern, part): which part a tensor lies in, by the start of its name; the usual one of
    tower and role, `format.parts.usual_part`, where none matches."""

    sampling_rate: int = 0
    """Of the waveforms that `preprocess_audio` takes, in Hz."""

    reads_alpha: ClassVar[bool] = False
    """Whether `preprocess` takes PIL images of mode RGBA, and not RGB alone."""

    reads_examples: ClassVar[bool] = False
    """Whether data hand over whole examples, to `prepare`, and not each modality by itself."""

    window: float | None = None
    """Seconds that `preprocess_audio` keeps of a longer sound, its middle; None when all."""

    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        check_weights(model)
        self.model = model

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """What the model is trained to minimize, a scalar; its gradients say what weights matter.

        Args:
            batch: of `PairData`.
        """

    @abstractmethod
    def passes(self) -> list[Pass]:
        """How to run all of the model on a batch."""

    def pass_of(self, modality: str) -> Pass:
        """The pass that shows what targets of a modality read."""
        return next(one for one in self.passes() if modality in one.modalities)

    def preprocess(self, image: Any) -> Tensor:
        """PIL image or uint8 tensor (…, 3, H, W) → the encoder's input (…, 3, S, S), float32."""
        raise ValueError(f"{type(self).__name__} has no image tower: choose another backbone")

    def preprocess_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Waveforms (samples,), float32 in [−1, 1] → the encoder's input (B, …)."""
        raise ValueError(f"{type(self).__name__} has no audio tower: choose another backbone")

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Strings → token ids (B, L) int64, cut to the context length, padded."""
        raise ValueError(
            f"{type(self).__name__} has no text tower: set evaluation=accuracy for a classifier, "
            "or choose another backbone"
        )

    def prepare(self, examples: Sequence[Example], *, answers: bool = True) -> Batch:
        """What the model reads of examples; see `Generator`."""
        raise ValueError(f"{type(self).__name__} answers no questions: choose backbone=hf_vlm")

    @property
    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON: all that `from_spec` needs to rebuild an empty skeleton."""

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        """The skeleton that `spec` describes, weights unset.

        Called under `torch.device("meta")` too, so it must not read or compute weights.

        Args:
            spec: what `Backbone.spec` gave, as read back from JSON.
            assets: the folder that `save_assets` wrote to.
        """

    def save_assets(self, folder: Path) -> list[str]:
        """Write what is neither weight nor config (the tokenizer); returns the file names."""
        return []

    def feeding(self, folder: Path) -> dict[str, dict[str, Any]]:
        """How a program without this code prepares inputs: modality → settings, JSON.

        They are what `mmcompress.inputs` takes, and tell the same as `preprocess`, `tokenize` and
        `preprocess_audio`.

        Args:
            folder: where files go that the settings name, such as `tokenizer.json`.
        Raises:
            ValueError: no settings can say it; the message says what cannot be said.
        """
        raise ValueError(f"a {type(self).__name__} prepares its inputs by code of its own")

    def write_native(self, folder: Path) -> None:
        """Write the model, all weights dense, as the library that it comes from stores its own.

        Raises:
            ValueError: the library has no way to say what this model computes.
        """
        raise ValueError(f"a {type(self).__name__} comes from no library that could load it")

    def targets(self) -> list[Target]:
        """Every compressible weight in the model as it stands now, in module order.

        Factors that a structural method has put in a layer's place inherit its role, so a later
        step can target them.
        """
        found = []
        for path, module in self.model.named_modules():
            if ".parametrizations" in f".{path}":
                continue
            granularity = granularity_of(module)
            for parameter in _weights(module):
                if granularity != "matrix" and parameter != "weight":
                    continue
                name = f"{path}.{parameter}" if path else parameter
                role = self._role(name, granularity)
                if role is not None:
                    part = self.part_of(name)
                    found.append(Target(path, parameter, *role, granularity, part=part))
        return found

    def remainder(self) -> dict[str, str]:
        """Every parameter that is no target, in module order, and why."""
        targets = {target.name for target in self.targets()}
        return {
            name: _reason(self.model, name)
            for name, _ in self.model.named_parameters()
            if name not in targets
        }

    def units(self) -> list[Target]:
        """Every whole module that may be compressed, as the model stands now.

        A module that several places share is listed once, under the first of them.
        """
        found = {id(self.model): Target("", "", "shared", "model", "model")}
        for path, stack in find_stacks(self.model):
            modality = self.modality_of(f"{path}.")
            places: list[tuple[str, nn.Module, str]] = [(path, stack, "stack")]
            for index, block in enumerate(stack):
                places.append((f"{path}.{index}", block, "block"))
                for name, module in attentions_of(block):
                    places.append((f"{path}.{index}.{name}", module, "attention"))
                name, module = mlp_of(block)
                places.append((f"{path}.{index}.{name}", module, "mlp"))
            for place, module, unit in places:
                part = self.part_of(f"{place}.")
                target = Target(place, "", modality, unit, unit, heads_of(module), part)
                found.setdefault(id(module), target)
        return list(found.values())

    def _role(self, name: str, granularity: str) -> tuple[str, str] | None:
        for pattern, modality, role in self.roles:
            if re.fullmatch(pattern, name):
                return modality, role
        if granularity not in UNNAMED_ROLES:
            return None
        for pattern, modality, role in self.roles:
            # "…mlp.fc1.weight" also covers "…mlp.fc1.u.weight", a factor of it.
            stem = pattern.removesuffix(r"\.weight")
            if pattern != stem and re.fullmatch(stem + r"(\.\w+)+\.weight", name):
                return modality, role
        return self.modality_of(name), UNNAMED_ROLES[granularity]

    def modality_of(self, name: str) -> str:
        """The tower that a parameter or buffer belongs to, `shared` when to none."""
        for prefix, modality in self.tower_prefixes:
            if re.match(prefix, name):
                return modality
        return "shared"

    def part_of(self, name: str) -> str:
        """The part that a parameter or buffer belongs to; empty for the usual one."""
        return next((part for prefix, part in self.part_prefixes if re.match(prefix, name)), "")


def granularity_of(module: nn.Module) -> str:
    """Of the weights that a module owns; `matrix` when it is none of the known layers."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv" if module.groups == 1 else "grouped_conv"
    if isinstance(module, nn.Embedding) and "position_ids" in _arguments(module):
        return "matrix"  # what it gets are tokens, and what it looks up are their places
    kinds = {nn.Linear: "linear", nn.Embedding: "embedding"}
    return next((g for kind, g in kinds.items() if isinstance(module, kind)), "matrix")


def _arguments(module: nn.Module) -> Iterable[str]:
    return inspect.signature(type(module).forward).parameters


def _reason(model: nn.Module, name: str) -> str:
    """Why a parameter is no target."""
    path, _, parameter = name.rpartition(".")
    owner, shape = model.get_submodule(path), model.get_parameter(name).squeeze().shape
    if "Norm" in type(owner).__name__:
        return "normalization"
    if "bias" in parameter and len(shape) <= 1:
        return "bias"
    kind = {0: "scalar", 1: "vector"}.get(len(shape), "matrix")
    return f"{kind} of {type(owner).__name__}"


def _weights(module: nn.Module) -> Iterator[str]:
    """Names of the module's own parameters, parametrized ones included."""
    parametrizations = getattr(module, "parametrizations", {})
    yield from (name for name in [*module._parameters, *parametrizations])
