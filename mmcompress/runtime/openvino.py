"""A folder of OpenVINO graphs that embeds pictures, texts and sounds. Needs no torch.

    from mmcompress.runtime.openvino import OpenVINOModel

    model = OpenVINOModel("small_openvino")
    texts = model.embed_texts(["a photo of a cat"])   # (N, D) float32, L2-normalized

Packages: openvino, and those of `mmcompress.runtime.graphs`.
"""

from typing import Any

import numpy as np

from mmcompress.runtime.graphs import GraphModel

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Otherwise some processors compute in bfloat16, and round what layers with integers read."""


class OpenVINOModel(GraphModel):
    """Embeds pictures, texts and sounds by OpenVINO, on the CPU; floats are float32 throughout."""

    runtime = "openvino"
    package = "openvino"

    def run(self, modality: str, inputs: np.ndarray) -> np.ndarray:
        return np.array(self.compiled(modality)(inputs)[0])

    def compiled(self, modality: str) -> Any:
        """OpenVINO's compiled model of a tower."""
        if modality not in self._sessions:
            import openvino

            settings = dict(EXACT)
            if self.threads:
                settings["INFERENCE_NUM_THREADS"] = str(self.threads)
            file = self.folder / self.manifest["towers"][modality]["file"]
            self._sessions[modality] = openvino.Core().compile_model(file, "CPU", settings)
        return self._sessions[modality]
