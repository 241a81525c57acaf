"""NNCF: `compress_weights`, stored as OpenVINO IR, one model per tower."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcompress.benchmarks.peers.base import Batches, Peer
from mmcompress.benchmarks.peers.towers import Towers


class NNCF(Peer):
    """All weights of linear, embedding and convolution layers.

    Below 8 bits the OpenVINO backend calibrates scales and rounds with GPTQ. Its int8 takes no
    data. A fine-tuned model is compressed by the PyTorch backend in a trainable format (`FQ` per
    row at 8 bits, `FQ_LORA` in groups at 4), trained with all of its weights, and stripped to
    integers before the conversion.

    Args:
        bits: 8, 4, 3 or 2.
        group_size: weights that share a scale; one row when −1.
        lora_rank: of the adapters that `FQ_LORA` trains beside the weights.
    """

    library = "NNCF"
    packages = ("nncf", "openvino")
    saved = "OpenVINO IR (.bin and .xml), float16 rest"

    def __init__(
        self, bits: int, *, group_size: int = -1, lora_rank: int = 16, trained: bool = False
    ) -> None:
        scales = "per row" if group_size == -1 else f"groups of {group_size}"
        self.name = f"int{bits}, {scales}"
        self.bits = bits
        self.group_size = group_size
        self.lora_rank = lora_rank
        self.trained = trained
        self.reason = "" if bits >= 4 else "its trainable formats have 8 and 4 bits"

    def prepare(self, towers: Towers, batches: Batches) -> None:
        if not self.trained:
            return
        # The first training compiles a C++ extension, which outlasts the default of one minute.
        os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "600")
        nncf = _imported()
        form = nncf.CompressionFormat.FQ if self.bits == 8 else nncf.CompressionFormat.FQ_LORA
        rank = nncf.AdvancedCompressionParameters(lora_adapter_rank=self.lora_rank)
        for modality, samples in _samples(batches).items():
            compressed = nncf.compress_weights(
                getattr(towers, modality).eval(),
                compression_format=form,
                dataset=nncf.Dataset(samples),
                subset_size=len(samples),
                advanced_parameters=rank,
                **self._settings(nncf),
            )
            setattr(towers, modality, compressed)
        for parameter in towers.parameters():
            parameter.requires_grad_(parameter.is_floating_point())

    def save(self, towers: Towers, batches: Batches, folder: Path) -> int:
        import openvino

        nncf = _imported()
        covered = 0
        for modality, samples in _samples(batches).items():
            tower = getattr(towers, modality).eval().requires_grad_(False)
            example = samples[0][:2]
            if self.trained:
                tower = nncf.strip(tower, do_copy=False, strip_format=nncf.StripFormat.DQ)
            model = openvino.convert_model(tower, example_input=example)
            if not self.trained:
                model = nncf.compress_weights(model, **self._data(nncf, samples))
            openvino.save_model(model, folder / f"{modality}.xml", compress_to_fp16=True)
            covered += _weights_in(model)
        return covered

    def load(self, folder: Path, blank: Towers) -> Mapping[str, Callable[[Tensor], Tensor]]:
        import openvino

        # Exact arithmetic: nothing is rounded but what the file holds.
        exact = {
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        core = openvino.Core()
        return {
            modality: _function(core.compile_model(folder / f"{modality}.xml", "CPU", exact))
            for modality in Towers.modalities
        }

    def _settings(self, nncf: Any) -> dict[str, Any]:
        mode = getattr(nncf.CompressWeightsMode, f"INT{self.bits}_SYM")
        if self.bits == 8:
            return {"mode": mode, "group_size": self.group_size}
        return {"mode": mode, "group_size": self.group_size, "ratio": 1.0, "all_layers": True}

    def _data(self, nncf: Any, samples: list[Tensor]) -> dict[str, Any]:
        if self.bits == 8:
            return self._settings(nncf)
        data = {"dataset": nncf.Dataset(samples), "subset_size": len(samples)}
        return self._settings(nncf) | data | {"scale_estimation": True, "gptq": True}


def _imported() -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def _samples(batches: Batches) -> dict[str, list[Tensor]]:
    return {m: [batch[m] for batch in batches] for m in Towers.modalities}


def _weights_in(model: Any) -> int:
    """Elements of the integer constants of an OpenVINO model, zero points aside."""
    return sum(
        math.prod(op.get_output_shape(0))
        for op in model.get_ops()
        if op.get_type_name() == "Constant"
        and op.get_output_element_type(0).get_bitwidth() <= 8
        and "zero_point" not in op.get_friendly_name()
    )


def _function(compiled: Any) -> Callable[[Tensor], Tensor]:
    return lambda inputs: torch.from_numpy(compiled(inputs.numpy())[0].copy())
