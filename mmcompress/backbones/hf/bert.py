"""Encoders of text like BERT: token ids in, hidden states out."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from mmcompress.backbones.bert_blocks import LAYOUTS, split_blocks
from mmcompress.backbones.native import native_state


def check_kind(config: Any) -> None:
    """Refuse the config of another encoder than `LAYOUTS` has.

    Raises:
        ValueError: its architecture is not one of them, or it is a decoder.
    """
    kind = config.model_type
    if kind not in LAYOUTS or getattr(config, "is_decoder", False):
        raise ValueError(
            f"{type(config).__name__} (model_type={kind!r}) is not supported: give an encoder "
            f"of one of the types {', '.join(LAYOUTS)}"
        )


class TextEncoder(nn.Module):
    """Token ids → hidden states, without pooler and without dropout.

    Args:
        source: a library's encoder, whose modules are taken over.
    Attributes:
        max_tokens: how many it has positions for.
    Raises:
        ValueError: its architecture is not one of `LAYOUTS`, or it is a decoder.
    """

    def __init__(self, source: PreTrainedModel) -> None:
        super().__init__()
        self.config = source.config
        check_kind(self.config)
        kind = self.config.model_type
        split_blocks(source)
        self.embeddings = source.get_submodule("embeddings")
        self.layers = nn.ModuleList(source.get_submodule(LAYOUTS[kind].blocks).children())
        positions = self.embeddings.position_embeddings
        assert isinstance(positions, nn.Embedding)
        # RoBERTa and its kin count from behind the padding index.
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        self.max_tokens: int = positions.num_embeddings - first

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        """Hidden states (B, T, D) after the last block.

        Args:
            ids: (B, T) int64.
            valid: (B, T) bool, False where padding stands.
        """
        hidden = self.embeddings(input_ids=ids)
        for layer in self.layers:
            hidden = layer(hidden, valid[:, None, None, :])
        return hidden

    def native_state(self, path: str) -> dict[str, Tensor]:
        """The library's own model, without pooler."""
        blocks = LAYOUTS[self.config.model_type].blocks
        found = native_state(self.embeddings, "embeddings")
        for index, layer in enumerate(self.layers):
            found |= native_state(layer, f"{blocks}.{index}")
        return found


def mean_pool(hidden: Tensor, valid: Tensor) -> Tensor:
    """Mean over the tokens that count.

    Args:
        hidden: (B, T, D).
        valid: (B, T) bool, at least one True per row.
    Returns:
        (B, D).

    Example:
        >>> import torch
        >>> mean_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    weights = valid[..., None].to(hidden.dtype)  # B T 1
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
