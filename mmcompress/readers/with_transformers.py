"""Embeds pictures, texts and sounds by transformers; sentences as sentence-transformers does it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer

folder, items, out = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
loaded: Any = AutoModel.from_pretrained(folder, output_loading_info=True)
model, info = loaded
missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
if missing or info["unexpected_keys"]:
    sys.exit(f"keys do not match: {missing[:3]} are missing, {info['unexpected_keys']} are left")
model.eval()
if hasattr(model, "ct_decompress_hook"):  # else `model(...)` alone makes floats of integers
    model.hf_quantizer.compressor.decompress_model(model)
found: dict[str, np.ndarray] = {}


def tokens() -> Any:
    """What the text tower reads; SigLIP was trained on padded texts, and sees no mask."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.loads((items / "texts.json").read_text("utf-8"))
    sees_padding = model.config.model_type.startswith("siglip")
    padding = "max_length" if sees_padding else True
    made = tokenizer(texts, padding=padding, truncation=True, return_tensors="pt")
    names = ["input_ids"] if sees_padding else ["input_ids", "attention_mask"]
    return {name: made[name] for name in names}


def sentences() -> np.ndarray:
    """The pooling that `modules.json` names."""
    read = tokens()
    hidden = model(**read).last_hidden_state
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text("utf-8"))
    if pooling["pooling_mode_cls_token"]:
        return hidden[:, 0].numpy()
    mask = read["attention_mask"][..., None].float()
    return ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).numpy()


with torch.inference_mode():
    if (folder / "modules.json").exists():
        found["text"] = sentences()
    else:
        found["text"] = model.get_text_features(**tokens()).pooler_output.numpy()
    pictures = [Image.open(file) for file in sorted(items.glob("*.png"))]
    if pictures:
        pixels = AutoImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt")
        found["image"] = model.get_image_features(**pixels).pooler_output.numpy()
    if (items / "sounds.npz").exists():
        with np.load(items / "sounds.npz") as sounds:
            waves, rate = list(sounds["waves"]), int(sounds["rate"])
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        features = extractor(waves, sampling_rate=rate, return_tensors="pt")
        found["audio"] = model.get_audio_features(**features).pooler_output.numpy()
np.savez(out, **found)  # type: ignore[arg-type]
