"""The rebuilt encoder against transformers' own."""

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from mmcompress.backbones.hf.bert import TextEncoder

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = SIZES | {"intermediate_size": 24, "max_position_embeddings": 12}


def build(kind: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    match kind:
        case "bert":
            return BertModel(BertConfig(**BERT, **options)).eval()
        case "roberta":
            return RobertaModel(RobertaConfig(**BERT, **options)).eval()
        case "distilbert":
            sizes = {"vocab_size": 30, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}
            return DistilBertModel(DistilBertConfig(**sizes, max_position_embeddings=12)).eval()
    raise AssertionError(kind)


def batch(pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[7, 9, 11, 13, 15], [8, 10, pad, pad, pad]])
    return ids, ids != pad


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_equals_transformers(kind: str) -> None:
    source = build(kind)
    ids, valid = batch(source.config.pad_token_id)
    with torch.no_grad():
        expected = source(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        found = TextEncoder(source)(ids, valid)
    # float32; where padding stands the library gives what nobody reads.
    torch.testing.assert_close(found[valid], expected[valid], rtol=1e-5, atol=1e-6)
    assert found.std() > 0.1


def test_other_activations() -> None:
    source = build("bert", hidden_act="relu")
    ids, valid = batch(0)
    with torch.no_grad():
        expected = source(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        torch.testing.assert_close(TextEncoder(source)(ids, valid)[valid], expected[valid])


def test_padding_changes_nothing() -> None:
    encoder = TextEncoder(build("bert"))
    ids, valid = batch(0)
    with torch.no_grad():
        alone = encoder(ids[1:, :2], valid[1:, :2])
        # float32, sums of another length
        torch.testing.assert_close(encoder(ids, valid)[1:, :2], alone, rtol=1e-5, atol=1e-6)


def test_training_is_without_dropout() -> None:
    encoder = TextEncoder(build("bert"))
    ids, valid = batch(0)
    with torch.no_grad():
        assert torch.equal(encoder.train()(ids, valid), encoder.eval()(ids, valid))


@pytest.mark.parametrize(("kind", "expected"), [("bert", 12), ("roberta", 10), ("distilbert", 12)])
def test_longest_text(kind: str, expected: int) -> None:
    """RoBERTa's positions begin behind the padding index, 1."""
    encoder = TextEncoder(build(kind))
    assert encoder.max_tokens == expected
    ids = torch.full((1, expected), 5)
    assert encoder(ids, ids != 0).shape == (1, expected, 16)
    with pytest.raises((IndexError, RuntimeError)):
        encoder(torch.full((1, expected + 1), 5), torch.ones(1, expected + 1, dtype=torch.bool))


def test_other_architectures_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"MPNetConfig .* give an encoder of one of the types bert"
    ):
        TextEncoder(MPNetModel(MPNetConfig(**BERT)))


def test_decoders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"BertConfig \(model_type='bert'\) is not supported"):
        TextEncoder(build("bert", is_decoder=True))
