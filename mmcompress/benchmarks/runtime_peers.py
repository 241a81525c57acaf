"""What other quantizers make of a dense ONNX graph, to hold ours against."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


def onnx_dynamic(graph: Path, to: Path, samples: np.ndarray) -> None:
    """Dynamic int8 by ONNX Runtime's quantizer, a scale for each output."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        graph, to, per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=True
    )


def onnx_four_bits(graph: Path, to: Path, samples: np.ndarray, *, level: int) -> None:
    """4 bits in blocks of 32 by ONNX Runtime's quantizer."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    made = MatMulNBitsQuantizer(
        onnx.load(graph), block_size=32, is_symmetric=True, accuracy_level=level
    )
    made.process()
    made.model.save_model_to_file(str(to), use_external_data_format=True)


def nncf(graph: Path, to: Path, samples: np.ndarray) -> None:
    """int8 of weights and activations by NNCF, with its settings for transformers."""
    import nncf as library
    import openvino

    library.set_log_level(logging.ERROR)
    settings: dict[str, Any] = {
        "model_type": library.ModelType.TRANSFORMER,
        "subset_size": len(samples),
    }
    dataset = library.Dataset([sample[None] for sample in samples])
    model = library.quantize(openvino.convert_model(graph), dataset, **settings)
    openvino.save_model(model, to, compress_to_fp16=False)


@dataclass(frozen=True)
class Peer:
    """One quantizer.

    Attributes:
        make: writes its graph, of a dense ONNX graph and samples (N, …) of what it reads.
        suffix: of the file that it writes.
    """

    make: Callable[[Path, Path, np.ndarray], None]
    suffix: str = ".onnx"


DYNAMIC, FOUR_BITS, FOUR_BITS_INPUTS, NNCF = (
    "dynamic int8",
    "4 bits",
    "4 bits, inputs int8",
    "NNCF int8",
)
PEERS: Mapping[str, Peer] = {
    DYNAMIC: Peer(onnx_dynamic),
    FOUR_BITS: Peer(partial(onnx_four_bits, level=0)),
    FOUR_BITS_INPUTS: Peer(partial(onnx_four_bits, level=4)),
    NNCF: Peer(nncf, ".xml"),
}
