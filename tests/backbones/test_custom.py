"""A user's own modules, and what of them an artifact can and cannot bring back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.custom import Custom
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.recipe import Recipe
from mmcompress.format.errors import ArtifactError
from tests.conftest import store


class Image(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(width, 16)
        self.register_buffer("ramp", torch.linspace(0, 1, width), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.conv(pixels).flatten(2).mT + self.ramp
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.out(mixed.mean(dim=1))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 32)
        self.out = nn.Linear(32, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.words(ids).mean(dim=1))


def tokenize(texts: list[str]) -> Tensor:
    return torch.tensor([[len(word) for word in [*text.split(), "", ""][:2]] for text in texts])


def build(width: int = 32, seed: int = 0) -> Custom:
    torch.manual_seed(seed)
    return Custom(
        image_encoder=Image(width),
        text_encoder=Text(),
        transform=lambda image: image.float() / 255,
        tokenizer=tokenize,
        pad_id=0,
        roles=[(r"text_encoder\.out\.weight", "text", "proj")],
    ).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    pixels = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"image": pixels, "text": tokenize(["a cat", "two dogs", "x", "bb cc", "d", "eeee"])}


def test_every_layer_is_a_target(batch: dict[str, Tensor]) -> None:
    backbone = build()
    roles = {t.name: (t.modality, t.role) for t in backbone.targets()}
    assert roles == {
        "image_encoder.conv.weight": ("image", "conv"),
        "image_encoder.attention.q_proj.weight": ("image", "linear"),
        "image_encoder.attention.k_proj.weight": ("image", "linear"),
        "image_encoder.attention.v_proj.weight": ("image", "linear"),
        "image_encoder.attention.out_proj.weight": ("image", "linear"),
        "image_encoder.out.weight": ("image", "linear"),
        "text_encoder.words.weight": ("text", "embed"),
        "text_encoder.out.weight": ("text", "proj"),
    }
    assert backbone.valid_tokens("text", batch["text"]).sum().item() == 9
    assert backbone.valid_tokens("image", batch["image"]) is None
    torch.testing.assert_close(backbone.logit_scale, torch.tensor(1 / 0.07))
    image = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    assert backbone.preprocess(image).max() == 1


class Blocks(nn.Module):
    """Blocks in a list, whose numbers look like those of the layers in them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2)
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.nn.functional.one_hot(ids, 8).float().mean(dim=1)
        for block in self.blocks:
            x = block(x)
        return x


def test_a_wide_pattern_takes_no_norm_and_no_layer_that_a_later_row_names() -> None:
    rows = [(r"text_encoder\..*\.0\.weight", "text", "up"), (r".*\.2\.weight", "text", "down")]
    made = Custom(text_encoder=Blocks(), tokenizer=tokenize, roles=rows)
    assert [(t.name.removeprefix("text_encoder.blocks."), t.role) for t in made.targets()] == [
        ("0.0.weight", "up"),
        ("0.2.weight", "down"),
        ("1.0.weight", "up"),
        ("1.2.weight", "down"),
    ]


def save(folder: Path, backbone: Custom, batch: dict[str, Tensor]) -> Path:
    lowrank = LowRank(rank_ratio=0.5, rank_multiple=1, role="conv")
    recipe = Recipe({"lowrank": lowrank, "gptq": GPTQ(bits=4)})
    compressed = recipe.apply(backbone, [batch])
    store(folder, compressed)
    return folder


def test_loaded_into_what_the_user_gives(tmp_path: Path, batch: dict[str, Tensor]) -> None:
    backbone = build()
    folder = save(tmp_path / "artifact", backbone, batch)
    loaded = Artifact.load(folder, skeleton=lambda: build(seed=1)).backbone
    with torch.no_grad():
        for modality, inputs in batch.items():
            assert torch.equal(loaded.encode(modality, inputs), backbone.encode(modality, inputs))
    read = Artifact.read(folder, skeleton=build)
    assert sum(row.bytes for row in read.ledger()) == read.bytes


def test_nothing_is_loaded_without_it(tmp_path: Path, batch: dict[str, Tensor]) -> None:
    folder = save(tmp_path / "artifact", build(), batch)
    for load in (Artifact.load, Artifact.read):
        with pytest.raises(ArtifactError, match=r"give what builds the dense one: Artifact.load"):
            load(folder)
    with pytest.raises(ArtifactError, match=r"tensors are not those that were stored"):
        Artifact.load(folder, skeleton=lambda: build(width=48))


def test_one_tower_alone() -> None:
    backbone = Custom(image_encoder=Image(), transform=lambda image: image)
    assert backbone.modalities == ("image",)
    with pytest.raises(ValueError, match="without a text_encoder cannot read texts"):
        backbone.tokenize(["a"])
    with pytest.raises(ValueError, match="has no audio tower"):
        backbone.preprocess_audio([torch.zeros(3)])
    sounds = Custom(audio_encoder=nn.Linear(4, 2), audio_transform=torch.stack, sampling_rate=8)
    assert sounds.encode("audio", sounds.preprocess_audio([torch.ones(4)])).shape == (1, 2)
    assert sounds.sampling_rate == 8


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="give image_encoder, audio_encoder or text_encoder"):
        Custom()
    with pytest.raises(ValueError, match=r"backbone.text_encoder needs backbone.tokenizer"):
        Custom(text_encoder=Text())
    with pytest.raises(ValueError, match=r"backbone.image_encoder needs backbone.transform"):
        Custom(image_encoder=Image())
