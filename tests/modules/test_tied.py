"""An embedding that looks up its rows in the head, whatever has become of that."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.modules.lowrank import LowRankLinear
from mmcompress.modules.quantized_input import QuantizedInput
from mmcompress.modules.tied import TiedEmbedding, tie

IDS = torch.tensor([[0, 4], [6, 4]])


@pytest.fixture
def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"embed": nn.Embedding(7, 6, padding_idx=2), "head": nn.Linear(6, 7)})
    parts["embed"].weight = parts["head"].weight
    tie(parts, embedding="embed", head="head")
    return parts


def test_it_has_no_weight_of_its_own(model: nn.ModuleDict) -> None:
    assert {*model.state_dict()} == {"head.weight", "head.bias"}
    assert torch.equal(model["embed"](IDS), model["head"].weight[IDS])
    assert (model["embed"].num_embeddings, model["embed"].embedding_dim) == (7, 6)


def test_tying_again_changes_nothing(model: nn.ModuleDict) -> None:
    before = model["embed"]
    tie(model, embedding="embed", head="head")
    assert model["embed"] is before


def test_a_parametrization_of_the_head_is_one_of_the_rows(model: nn.ModuleDict) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    before = model["embed"](IDS)
    parametrize.register_parametrization(model["head"], "weight", Halved())
    torch.testing.assert_close(model["embed"](IDS), before / 2, rtol=0, atol=0)


def test_gradients_of_both_meet(model: nn.ModuleDict) -> None:
    hidden = model["embed"](IDS)
    model["head"](hidden).sum().backward()
    plain = model["head"].weight.detach().clone().requires_grad_()
    (plain[IDS] @ plain.T + model["head"].bias.detach()).sum().backward()
    torch.testing.assert_close(model["head"].weight.grad, plain.grad)


def test_rows_of_a_low_rank_head(model: nn.ModuleDict) -> None:
    low = LowRankLinear(model["head"], rank=3)
    low.v = QuantizedInput(low.v, bits=8, factors=torch.arange(1.0, 7.0))
    model["head"] = low
    expected = (low.u.weight @ (low.v.weight / torch.arange(1.0, 7.0)))[IDS]
    torch.testing.assert_close(model["embed"](IDS), expected)


def test_rows_of_a_head_whose_inputs_are_rounded(model: nn.ModuleDict) -> None:
    before = model["embed"](IDS)
    model["head"] = QuantizedInput(model["head"], bits=8, factors=torch.full((6,), 3.0))
    torch.testing.assert_close(model["embed"](IDS), before)


def test_a_copy_looks_up_in_its_own_head(model: nn.ModuleDict) -> None:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied["head"].weight.zero_()
    assert isinstance(copied["embed"], TiedEmbedding)
    assert not copied["embed"](IDS).any()
    assert model["embed"](IDS).all()


def test_a_scaled_embedding_stays_scaled() -> None:
    """Gemma's embeddings are multiplied by a number, and its head is not."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    model = nn.Module()
    model.words = Gemma3TextScaledWordEmbedding(5, 4, padding_idx=0, embed_scale=2.0)
    model.head = nn.Linear(4, 5, bias=False)
    model.head.weight = model.words.weight
    ids = torch.tensor([[3, 1]])
    expected = model.words(ids)
    tie(model, embedding="words", head="head")
    assert torch.equal(model.words(ids), expected)
    assert [name for name, _ in model.named_parameters()] == ["head.weight"]
