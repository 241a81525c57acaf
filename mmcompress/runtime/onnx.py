"""A folder of ONNX graphs that embeds pictures, texts and sounds. Needs no torch.

    from mmcompress.runtime.onnx import OnnxModel

    model = OnnxModel("small_onnx")
    images = model.embed_images(["cat.jpg"])          # (N, D) float32, L2-normalized
    texts = model.embed_texts(["a photo of a cat"])

Packages: onnxruntime, tokenizers, Pillow, numpy; rich for the progress bar.
"""

from typing import Any

import numpy as np

from mmcompress.runtime.graphs import GraphModel


class OnnxModel(GraphModel):
    """Embeds pictures, texts and sounds by ONNX Runtime, on the CPU."""

    runtime = "onnx"
    package = "onnxruntime"

    def run(self, modality: str, inputs: np.ndarray) -> np.ndarray:
        tower = self.manifest["towers"][modality]
        feed = {tower["inputs"][0]["name"]: inputs}
        (rows,) = self.session(modality).run([tower["output"]["name"]], feed)
        return rows

    def session(self, modality: str) -> Any:
        """ONNX Runtime's session of a tower."""
        if modality not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads or 0
            options.log_severity_level = 3
            # Without VNNI, sums of two products of uint8 and int8 do not fit their 16 bits.
            options.add_session_config_entry("session.x64quantprecision", "1")
            file = self.folder / self.manifest["towers"][modality]["file"]
            self._sessions[modality] = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[modality]
