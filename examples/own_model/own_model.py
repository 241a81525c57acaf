"""Two encoders, a tokenizer and a transform that mmcompress knows nothing of."""

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

SIZE = 32
VOCABULARY = 4096


class ImageEncoder(nn.Module):
    """A small convolutional network: (B, 3, 32, 32) → (B, dim)."""

    def __init__(self, dim: int = 64, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in [(3, width), (width, 2 * width), (2 * width, 4 * width)]:
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Linear(4 * width, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projection(self.layers(pixels).mean(dim=(2, 3)))


class TextEncoder(nn.Module):
    """The mean of word vectors, projected: (B, L) → (B, dim). Token 0 is padding."""

    def __init__(self, dim: int = 64, width: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.projection = nn.Linear(width, dim)

    def forward(self, ids: Tensor) -> Tensor:
        counts = (ids > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.projection(self.words(ids).sum(dim=1) / counts)


class HashingTokenizer:
    """Words → ids by their bytes, padded to the longest text: no vocabulary to keep."""

    def __call__(self, texts: list[str]) -> Tensor:
        rows = [[self._id(word) for word in text.lower().split()] or [0] for text in texts]
        length = max(map(len, rows))
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])

    def _id(self, word: str) -> int:
        value = 0
        for byte in word.encode():
            value = (31 * value + byte) % (VOCABULARY - 1)
        return value + 1


def transform() -> v2.Compose:
    """PIL image or uint8 tensor → float32 (…, 3, 32, 32) in [0, 1]."""
    steps = [v2.RGB(), v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToPureTensor()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
