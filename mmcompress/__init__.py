"""Compression of multimodal models.

    import mmcompress as mmc

    small = mmc.compress(mmc.backbone("mini"), "int4")
    artifact = small.save("small")
    model = mmc.load("small")
    images = model.embed_images(["cat.jpg"])          # (N, D) float32, L2-normalized
    texts = model.embed_texts(["a photo of a cat"])

Names are imported when they are first used: `import mmcompress` alone waits for nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
