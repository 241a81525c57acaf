"""The parts of a small SmolVLM: an image tower and a language model like Llama, in one model."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from mmcompress.backbones.attention import split_attention
from mmcompress.modules.anatomy import attention_of, find_stacks, heads_of, mlp_of, mlp_parts
from mmcompress.modules.cuts import keep_blocks, keep_heads, keep_neurons
from mmcompress.testing.zoo.family import randomized, seeded

IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
TEXT = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
}


@pytest.fixture
def model() -> nn.Module:
    config = SmolVLMConfig(
        vision_config=IMAGE, text_config=TEXT, image_token_id=63, scale_factor=2, pad_token_id=2
    )
    with seeded():
        return randomized(SmolVLMForConditionalGeneration(config).eval(), std=0.1)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    """Of a picture of 4 × 4 patches, four of which make one token, and three words."""
    ids = torch.tensor([[63, 63, 63, 63, 5, 9, 17]])
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 1, 3, 16, 16)
    return model(input_ids=ids, pixel_values=pixels, use_cache=False).logits


def test_both_towers_have_blocks(model: nn.Module) -> None:
    stacks = dict(find_stacks(model))
    assert {path: len(stack) for path, stack in stacks.items()} == {
        "model.vision_model.encoder.layers": 2,
        "model.text_model.layers": 3,
    }
    heads = [heads_of(attention_of(stack[0])[1]) for stack in stacks.values()]
    assert heads == [4, 2]


def test_nothing_is_left_to_be_made_explicit(model: nn.Module) -> None:
    before = logits(model)
    split_attention(model)
    assert torch.equal(logits(model), before)
    for _, stack in find_stacks(model):
        for block in stack:
            layers = [m for m in attention_of(block)[1].modules() if isinstance(m, nn.Linear)]
            assert len(layers) == 4


def test_what_is_cut_equals_what_is_silenced(model: nn.Module) -> None:
    """One head and five neurons of every block of both towers, and a block of the text's."""
    cut, silenced = copy.deepcopy(model), copy.deepcopy(model)
    for _, stack in find_stacks(cut):
        for block in stack:
            attention = attention_of(block)[1]
            keep_heads(attention, range(1, heads_of(attention)))
            keep_neurons(mlp_of(block)[1], range(5, 48))
    cut.model.text_model.layers = keep_blocks(cut.model.text_model.layers, [1, 2])
    for path, stack in find_stacks(silenced):
        for block in stack:
            width = 8 if "vision" in path else 16  # one head, or two that share k and v
            out = attention_of(block)[1].get_submodule("out_proj" if width == 8 else "o_proj")
            out.weight.data[:, :width] = 0
            mlp = mlp_of(block)[1]
            mlp.get_submodule(mlp_parts(mlp).down).weight.data[:, :5] = 0
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        silenced.model.text_model.layers[0].get_submodule(name).weight.data.zero_()
    torch.testing.assert_close(logits(cut), logits(silenced), rtol=1e-4, atol=1e-5)
    assert (logits(cut) - logits(model)).abs().max() > 1e-2
