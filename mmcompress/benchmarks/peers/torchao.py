"""torchao: integer weights in safetensors, bits packed by the library's own packer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmcompress.benchmarks.peers.base import Batches, Peer
from mmcompress.benchmarks.peers.towers import Towers

FILE = "model.safetensors"
CODES = "_qdata"
"""How the names of integer tensors end in a state dict that torchao has flattened."""


class TorchAO(Peer):
    """Weights of all linear layers and of the token embedding; the convolution stays, in float16.

    `IntxWeightOnlyConfig` scales a convolution per input channel, which on three colors takes as
    many bytes as float16 itself. Its int4 and int2 tensors hold one weight per byte, so the
    integers are packed for the file with torchao's `UintxTensor`: `Int4WeightOnlyConfig` needs a
    GPU, and the prototype for CPUs makes a larger file (bfloat16, no embedding, no int2).

    Args:
        bits: 8, 4 or 2.
        group_size: weights that share a scale; one row when None.
        hqq: scales by the library's HQQ algorithm, which its training does not know.
    """

    library = "torchao"
    packages = ("torchao",)

    def __init__(
        self,
        bits: int,
        *,
        group_size: int | None = None,
        hqq: bool = False,
        trained: bool = False,
    ) -> None:
        scales = f"groups of {group_size}" if group_size else "per row"
        self.name = f"int{bits}, {scales}{', HQQ' if hqq else ''}"
        self.bits = bits
        self.group_size = group_size
        self.hqq = hqq
        self.trained = trained
        packed = "" if bits == 8 else ", packed by its UintxTensor"
        self.saved = f"its safetensors{packed}, float16 rest"

    def prepare(self, towers: Towers, batches: Batches) -> None:
        from torchao.quantization import quantize_
        from torchao.quantization.qat import QATConfig

        if self.trained:
            quantize_(towers, QATConfig(self._config(), step="prepare"), filter_fn=_is_target)

    def save(self, towers: Towers, batches: Batches, folder: Path) -> int:
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
        from torchao.quantization import quantize_
        from torchao.quantization.qat import QATConfig

        config = self._config()
        if self.trained:
            config = QATConfig(config, step="convert")
        quantize_(towers, config, filter_fn=_is_target)
        # After the integers are found: in float16 the largest weights of a group, which lie half
        # way between two levels at 2 bits, would go to another one than in training.
        towers.to(torch.float16)
        # The logit scale, which no embedding needs, has no dot in its name, as flattening wants.
        state = {name: tensor for name, tensor in towers.state_dict().items() if "." in name}
        tensors, metadata = flatten_tensor_state_dict(state)
        covered = sum(t.numel() for name, t in tensors.items() if name.endswith(CODES))
        save_file(self._each_code(tensors, self._pack), folder / FILE, metadata=metadata)
        return covered

    def load(self, folder: Path, blank: Towers) -> Mapping[str, Callable[[Tensor], Tensor]]:
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

        with safe_open(folder / FILE, "pt") as file:
            metadata = file.metadata()
        tensors = self._each_code(load_file(folder / FILE), self._unpack)
        state, _ = unflatten_tensor_state_dict(tensors, metadata)
        blank.half().load_state_dict(state, strict=False, assign=True)
        return {modality: getattr(blank, modality) for modality in Towers.modalities}

    def _config(self) -> Any:
        from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup
        from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm as Algorithm

        return IntxWeightOnlyConfig(
            getattr(torch, f"int{self.bits}"),
            PerGroup(self.group_size) if self.group_size else PerAxis(0),
            intx_choose_qparams_algorithm=Algorithm.HQQ_SCALE_ONLY
            if self.hqq
            else Algorithm.AFFINE,
        )

    def _each_code(
        self, tensors: Mapping[str, Tensor], edit: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        packed = self.bits < 8
        return {n: edit(t) if packed and n.endswith(CODES) else t for n, t in tensors.items()}

    def _pack(self, codes: Tensor) -> Tensor:
        from torchao.prototype.dtypes.uintx.uintx_utils import to_uintx

        unsigned = (codes.short() + 2 ** (self.bits - 1)).byte()
        (shard,) = to_uintx(unsigned, getattr(torch, f"uint{self.bits}"), -1).get_shards()
        return shard

    def _unpack(self, shard: Tensor) -> Tensor:
        from torchao.prototype.dtypes.uintx.uintx_utils import UintxTensor

        shape = [*shard.shape[:-1], shard.shape[-1] * 8 // self.bits]
        unsigned = UintxTensor([shard], shape, self.bits, -1).get_plain()
        return (unsigned.short() - 2 ** (self.bits - 1)).char()


def _is_target(module: nn.Module, name: str) -> bool:
    return isinstance(module, (nn.Linear, nn.Embedding)) and "position" not in name
