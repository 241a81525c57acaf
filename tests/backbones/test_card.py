"""The card of a model, counted by hand."""

import io

import pytest
from rich.console import Console

from mmcompress.backbones.card import CardRow, card_of
from mmcompress.backbones.mlp import MLP
from mmcompress.cli import name_targets
from mmcompress.report.card import print_card


def test_by_hand() -> None:
    card = card_of(MLP(size=2, hidden=[5], classes=3))
    assert card.parameters == 4 * 5 + 5 + 5 * 3 + 3
    assert sum(row.count for row in card.weights) == 2
    assert card.targets == 4 * 5 + 5 * 3
    assert card.left == {"bias": 8}
    assert card.units == []


def test_a_block_counts_its_parts(tiny_open_clip) -> None:
    card = card_of(tiny_open_clip)
    units = {(row.modality, row.role): row for row in card.units}
    block = tiny_open_clip.model.visual.transformer.resblocks
    inside = sum(p.numel() for p in block.parameters())
    assert units["image", "block"] == CardRow("image", "block", "block", 2, inside, "vision_tower")
    assert units["text", "attention"].count == 2
    assert card.targets + sum(card.left.values()) == card.parameters


def test_a_tied_weight_counts_once(tiny_backbone) -> None:
    before = card_of(tiny_backbone)
    layers = tiny_backbone.model.vision_model.encoder.layers
    layers[1].mlp.fc1.weight = layers[0].mlp.fc1.weight
    after = card_of(tiny_backbone)
    tied = layers[0].mlp.fc1.weight.numel()
    assert before.targets - after.targets == tied
    assert before.parameters - after.parameters == tied


def test_it_is_printed(tiny_open_clip) -> None:
    text = io.StringIO()
    card = card_of(tiny_open_clip)
    print_card(card, console=Console(file=text, width=100))
    assert f"{card.targets:,}" in text.getvalue()
    assert "normalization" in text.getvalue()


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    name_targets([])
    printed = capsys.readouterr().out
    assert "attn.q" in printed
    assert "stays dense" in printed
