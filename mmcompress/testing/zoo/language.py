"""Small language models like Llama: gated MLPs, norms without bias, heads of q that share keys."""

from typing import Any

from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mmcompress.testing.zoo.family import randomized, seeded

MODELS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
"""By `model_type`."""


def build_language_model(kind: str, **settings: Any) -> nn.Module:
    """Three blocks, 32 wide; four heads of q and two of k and v, 8 wide each; random weights.

    Args:
        kind: of `MODELS`.
        settings: of its config, in place of these.
    """
    config, model = MODELS[kind]
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    with seeded():
        return randomized(model(config(**sizes | settings)).eval(), std=0.1)
