"""What an artifact can be exported to, by the name that `mmcompress export --to` takes.

Heavy modules are imported where they are used: the command's `--help` lists the names.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmcompress.system.files import check_new, folder_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from mmcompress.artifact.folder import Artifact
    from mmcompress.exports.check import Difference
    from mmcompress.exports.rounding import Ranges
    from mmcompress.exports.summary import Contained


@dataclass(frozen=True)
class Options:
    """What some targets can be told; None for what they do by themselves.

    Attributes:
        activations: `int8` and `static_int8` make the inputs of linear layers integers as well.
        ranges: of `input_ranges`, for `static_int8`.
        program: what the folder is for, of several programs that read the format.
    """

    activations: str | None = None
    ranges: "Ranges | None" = None
    program: str | None = None


@dataclass(frozen=True)
class Written:
    """What a folder holds.

    Attributes:
        tensors: what holds each weight; none where they are dense.
        note: what else is to be known; empty for nothing.
    """

    tensors: "list[Contained]" = field(default_factory=list)
    note: str = ""


Fill = Callable[["Artifact", Path, Options], Written]
"""Writes the files of an artifact into an empty folder."""


def _library(name: str) -> Fill:
    def fill(artifact: "Artifact", folder: Path, options: Options) -> Written:
        from mmcompress.exports.dense import fill_folder

        fill_folder(artifact, name, folder)
        return Written()

    return fill


def _onnx(artifact: "Artifact", folder: Path, options: Options) -> Written:
    from mmcompress.exports.onnx.folder import fill_folder
    from mmcompress.exports.summary import containers

    fill_folder(artifact, folder, activations=options.activations, ranges=options.ranges)
    return Written(containers(folder))


def _openvino(artifact: "Artifact", folder: Path, options: Options) -> Written:
    from mmcompress.exports.openvino import fill_folder
    from mmcompress.exports.summary import containers

    fill_folder(artifact, folder, activations=options.activations, ranges=options.ranges)
    return Written(containers(folder))


def _compressed_tensors(artifact: "Artifact", folder: Path, options: Options) -> Written:
    from mmcompress.exports.compressed_tensors.checkpoint import fill_folder

    tensors, note = fill_folder(artifact, folder, program=options.program or "transformers")
    return Written(tensors, note)


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        loaded_by: what reads the folder, `{}` in its place.
        fill: writes the folder.
        reader: of `mmcompress/readers/`: loads them by other libraries alone.
        activations: what `--activations` may be.
        programs: what `--target` may be, the default first.
        centered: of `input_ranges`.
    """

    loaded_by: str
    fill: Fill
    reader: str
    activations: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    centered: bool = False


TARGETS = {
    "open_clip": Target(
        'open_clip.create_model_and_transforms("local-dir:{}")',
        _library("open_clip"),
        "with_open_clip",
    ),
    "hf": Target(
        'transformers.AutoModel.from_pretrained("{}")', _library("hf"), "with_transformers"
    ),
    "compressed-tensors": Target(
        'transformers.AutoModel.from_pretrained("{}")',
        _compressed_tensors,
        "with_transformers",
        programs=("transformers", "vllm"),
    ),
    "openvino": Target(
        'mmcompress.runtime.openvino.OpenVINOModel("{}"), which needs no torch',
        _openvino,
        "with_graphs",
        activations=("static_int8",),
        centered=True,
    ),
    "onnx": Target(
        'mmcompress.runtime.onnx.OnnxModel("{}"), which needs no torch',
        _onnx,
        "with_graphs",
        activations=("int8", "static_int8"),
    ),
}


@dataclass(frozen=True)
class Exported:
    """What became of an artifact.

    Attributes:
        written: what the folder holds.
        difference: how far the embeddings of what was written are from its own; None untested.
    """

    written: Written
    difference: "Difference | None" = None

    @property
    def containers(self) -> list[str]:
        """What holds its weights, in lines; none where they are dense."""
        from mmcompress.exports.summary import lines

        return lines(self.written.tensors) + ([self.written.note] if self.written.note else [])


def target_of(name: str) -> Target:
    """The target of a name.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name not in TARGETS:
        raise ValueError(f"to={name!r} must be one of {', '.join(TARGETS)}")
    return TARGETS[name]


def export(
    artifact: "Artifact",
    to: str,
    folder: Path,
    *,
    activations: str | None = None,
    batches: "Iterable[Mapping[str, Tensor]] | None" = None,
    program: str | None = None,
    test: bool = False,
) -> Exported:
    """Write a folder for another library or runtime; all of it appears, or nothing.

    Args:
        artifact: of `Artifact.load`.
        to: a key of `TARGETS`.
        folder: to create.
        activations: `int8` makes the inputs of linear layers integers as well, each tensor between
            its own extremes; `static_int8` between those that `batches` shows.
        batches: modality → inputs: data like those that the model will see.
        program: what reads the folder, where several programs read the format.
        test: load what was written with the other library, in a process of its own, and compare.
    Raises:
        ValueError: the target cannot express the model, what it loads differs, or `folder` exists.
    """
    chosen = target_of(to)
    _check_option("activations", activations, to, lambda target: target.activations)
    _check_option("target", program, to, lambda target: target.programs)
    check_new(folder)  # before anything that takes time
    static = activations == "static_int8"
    if batches is not None and not static:
        raise ValueError("data is looked at for activations='static_int8' alone: leave it out")
    ranges = _ranges(artifact, batches, chosen) if static else None
    options = Options(activations, ranges, program)
    with folder_atomically(folder) as temporary:
        written = chosen.fill(artifact, temporary, options)
        if not test:
            return Exported(written)
        from mmcompress.exports.check import compare

        difference = compare(
            artifact, temporary, chosen.reader, activations=activations, ranges=ranges
        )
        return Exported(written, difference)


def _ranges(
    artifact: "Artifact", batches: "Iterable[Mapping[str, Tensor]] | None", target: Target
) -> "Ranges":
    from mmcompress.backbones.capabilities import encoder
    from mmcompress.exports.rounding import input_ranges

    if batches is None:
        raise ValueError(
            "activations='static_int8' rounds between ends that data show: add data, such as "
            "data=openmoji"
        )
    model = encoder(artifact.backbone, "this runs", "keep the artifact")
    return input_ranges(model, batches, centered=target.centered)


def _check_option(
    key: str, value: str | None, to: str, allowed: Callable[[Target], tuple[str, ...]]
) -> None:
    """Refuse an option that the target does not take, and say which one does."""
    if value is None or value in allowed(TARGETS[to]):
        return
    able = [name for name, target in TARGETS.items() if value in allowed(target)]
    takers = {name: allowed(target) for name, target in TARGETS.items() if allowed(target)}
    fix = "; ".join(
        f"{' or '.join(values)} is what there is, for {n}" for n, values in takers.items()
    )
    if able:
        fix = f"set --to {' or '.join(able)}"
    raise ValueError(f"{key}={value!r} is not for an export to {to}: {fix}")
