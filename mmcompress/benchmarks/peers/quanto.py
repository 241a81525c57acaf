"""optimum-quanto: packed integers in safetensors, with the library's quantization map."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcompress.benchmarks.peers.base import Batches, Peer
from mmcompress.benchmarks.peers.towers import Towers

WEIGHTS, MAP = "model.safetensors", "quantization_map.json"


class Quanto(Peer):
    """Weights of all linear and convolution layers; embeddings stay, in float16.

    The library chooses the groups: 96 or 128 weights below 8 bits, one row at 8.

    Args:
        bits: 8, 4 or 2.
        hqq: scales by the library's HQQ optimizer in place of minimum and maximum.
    """

    library = "optimum-quanto"
    packages = ("optimum-quanto",)
    saved = "safetensors and quantization map, float16 rest"

    def __init__(self, bits: int, *, hqq: bool = False, trained: bool = False) -> None:
        self.name = f"int{bits}{' (HQQ)' if hqq else ''}"
        self.bits = bits
        self.hqq = hqq
        self.trained = trained

    def prepare(self, towers: Towers, batches: Batches) -> None:
        from optimum.quanto import HqqOptimizer, quantize

        optimizer = HqqOptimizer() if self.hqq else None
        quantize(towers, weights=f"qint{self.bits}", optimizer=optimizer)

    def save(self, towers: Towers, batches: Batches, folder: Path) -> int:
        from optimum.quanto import QModuleMixin, freeze, quantization_map

        towers.half()
        freeze(towers)
        state = {name: tensor.contiguous() for name, tensor in towers.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        (folder / MAP).write_text(json.dumps(quantization_map(towers), separators=(",", ":")))
        return sum(m.weight.numel() for m in towers.modules() if isinstance(m, QModuleMixin))

    def load(self, folder: Path, blank: Towers) -> Mapping[str, Callable[[Tensor], Tensor]]:
        from optimum.quanto import requantize

        blank.half()
        requantize(blank, load_file(folder / WEIGHTS), json.loads((folder / MAP).read_bytes()))
        return {modality: getattr(blank.eval(), modality) for modality in Towers.modalities}
