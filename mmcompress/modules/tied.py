"""An embedding and a head that are one matrix: the head owns it, and the embedding looks up there.

So it is compressed once, by what the head reads, and stays tied whatever takes the head's place.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mmcompress.modules.lowrank import LowRankLinear
from mmcompress.modules.quantized_input import QuantizedInput


class TiedEmbedding(nn.Module):
    """Row i is the weight of output i of another layer of the model.

    It has no parameter. The layer is looked up at each call, for another may have been put in its
    place.

    Args:
        model: what both lie in.
        head: path of the layer in it, (embeddings, embedding_dim).
        embedding: what is replaced; gives the sizes and the padding index.
    """

    def __init__(self, model: nn.Module, head: str, embedding: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings = embedding.num_embeddings
        self.embedding_dim = embedding.embedding_dim
        self.padding_idx = embedding.padding_idx
        # Gemma's embeddings are multiplied by a number, which the head is not.
        self.scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
        self._head = head
        # In a tuple, so that the model is no submodule of its own part.
        self._model = (model,)

    @property
    def weight(self) -> Tensor:
        """The table (num_embeddings, embedding_dim)."""
        return _whole(self._model[0].get_submodule(self._head))

    def forward(self, ids: Tensor) -> Tensor:
        rows = rows_of(self._model[0].get_submodule(self._head), ids)
        return rows if self.scale == 1 else rows * self.scale


def rows_of(layer: nn.Module, ids: Tensor) -> Tensor:
    """Rows (…, in) of the weight (out, in) of a linear layer, or of what took its place.

    Args:
        ids: (…), indices of outputs.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 3)
        >>> torch.equal(rows_of(layer, torch.tensor([2])), layer.weight[2:])
        True
    """
    if isinstance(layer, LowRankLinear):
        return rows_of(layer.u, ids) @ _whole(layer.v)
    if isinstance(layer, QuantizedInput):
        rows = rows_of(layer.linear, ids)
        return rows if layer.smoothing is None else rows / layer.smoothing
    if hasattr(layer, "rows"):  # a weight that is not kept as floats
        rows = layer.rows(ids)  # type: ignore[operator]
        assert isinstance(rows, Tensor)
        return rows
    return F.embedding(ids, _whole(layer))


def _whole(layer: nn.Module) -> Tensor:
    """The weight that acts on what the layer reads."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    smoothing = layer.smoothing if isinstance(layer, QuantizedInput) else None
    return weight if smoothing is None else weight / smoothing


def tie(model: nn.Module, *, embedding: str, head: str) -> None:
    """Let an embedding look up its rows in the head, in place; nothing where it does already.

    Args:
        embedding, head: paths of an `nn.Embedding` and an `nn.Linear` that hold one parameter.
    """
    layer = model.get_submodule(embedding)
    if isinstance(layer, nn.Embedding):
        model.set_submodule(embedding, TiedEmbedding(model, head, layer))
