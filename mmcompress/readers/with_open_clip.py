"""Embeds pictures and texts by open_clip."""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

folder, items, out = sys.argv[1:]
name = f"local-dir:{folder}"
model, _, transform = open_clip.create_model_and_transforms(name)
tokenizer = open_clip.get_tokenizer(name)
pictures = [Image.open(file) for file in sorted(Path(items).glob("*.png"))]
texts = json.loads((Path(items) / "texts.json").read_text("utf-8"))
with torch.inference_mode():
    model.eval()
    images = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
    words = model.encode_text(tokenizer(texts))
np.savez(out, image=images.flatten(1).numpy(), text=words.numpy())
