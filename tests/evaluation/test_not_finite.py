"""No evaluator gives a number for what is none: it says which modality, and which items."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.mlp import MLP
from mmcompress.data.base import PairData
from mmcompress.data.grayscale import Pictures
from mmcompress.data.items import Items
from mmcompress.evaluation.accuracy import Accuracy
from mmcompress.evaluation.agreement import Agreement
from mmcompress.evaluation.base import embed
from mmcompress.evaluation.baseline import dense_baseline
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.linear_probe import LinearProbe
from mmcompress.evaluation.perplexity import Perplexity
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.functional.not_finite import NotFiniteError
from mmcompress.functional.retrieval import ranks
from mmcompress.objectives.classification import CrossEntropy
from mmcompress.objectives.objective import Objective
from mmcompress.testing.zoo.families import FAMILIES
from tests.training.test_module import fit

NAN, INF = torch.nan, torch.inf

EVALUATORS: dict[str, Callable[[], Any]] = {
    "retrieval": Retrieval,
    "zeroshot": ZeroShot,
    "agreement": Agreement,
    "linear_probe": partial(LinearProbe, strengths=[1.0]),
}


def spoil(monkeypatch: pytest.MonkeyPatch, backbone: Backbone, modality: str, *at: Any) -> None:
    """Let the encoder of one modality give `value` for the rows that `choose` picks."""
    choose, value = at
    plain = getattr(backbone, f"encode_{modality}")

    def encode(inputs: Tensor) -> Tensor:
        rows = plain(inputs).clone()
        rows[choose(inputs), 0] = value
        return rows

    monkeypatch.setattr(backbone, f"encode_{modality}", encode)


def green(pixels: Tensor) -> Tensor:
    return pixels[:, 1].amax(dim=(1, 2)) > 0


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["retrieval", "zeroshot", "agreement"])
def test_one_picture(name: str, value: float, model, data, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, model, "image", green, value)
    with pytest.raises(NotFiniteError, match=r"image embeddings are .* 1 of 3 inputs \(1\)") as e:
        evaluate(model, data, {name: EVALUATORS[name]()}, "test", dense=model)
    assert e.value.rows == [1]
    with pytest.raises(NotFiniteError):
        dense_baseline(model, data, {name: EVALUATORS[name]()}, "test")


def test_the_dense_model_of_an_agreement_is_looked_at_too(
    model, confused, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(confused, data, {"agreement": Agreement()}, "test", dense=model)
    spoil(monkeypatch, model, "image", green, NAN)
    with pytest.raises(NotFiniteError, match="image embeddings"):
        evaluate(confused, data, {"agreement": Agreement()}, "test", dense=model)


@pytest.mark.parametrize("name", EVALUATORS)
def test_weights_that_became_nan(name: str, tiny_backbone: Backbone, tiny_data: PairData) -> None:
    """openai/CLIP#40: recall and accuracy were 100 %."""
    with torch.no_grad():
        tiny_backbone.model.visual_projection.weight[0, 0] = NAN
    with pytest.raises(NotFiniteError, match=r"8 of 8|24 of 24") as error:
        evaluate(tiny_backbone, tiny_data, {name: EVALUATORS[name]()}, "test", dense=tiny_backbone)
    assert "image embeddings are NaN or infinite" in str(error.value)
    assert "no metric can be had from this model" in str(error.value)


def test_prompts_name_their_class(model, data, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, model, "text", lambda ids: ids[:, 0] == 2, NAN)
    with pytest.raises(NotFiniteError, match="prompts of class 'blue': text embeddings"):
        evaluate(model, data, {"zeroshot": ZeroShot()}, "test")


def test_texts_name_their_items_once(model, data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items 0 and 2 have two captions each; both of the last are bad, and one of the first."""
    captions = [["red", "green"], ["red"], ["green", "green"]]
    images = data.splits["test"].images
    data.splits["test"] = Several(images, captions)
    spoil(monkeypatch, model, "text", lambda ids: ids[:, 0] == 1, NAN)
    with pytest.raises(NotFiniteError, match=r"text embeddings .* 2 of 3 inputs \(a/0, a/2\)") as e:
        evaluate(model, data, {"retrieval": Retrieval()}, "test")
    assert e.value.rows == [0, 2]


class Several(Items):
    """Pictures with names and several captions."""

    def __init__(self, images: list[Tensor], captions: list[list[str]]) -> None:
        self.images, self.captions = images, captions

    def __len__(self) -> int:
        return len(self.images)

    @property
    def keys(self) -> list[str]:
        return [f"a/{index}" for index in range(len(self))]

    def read(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "text": self.captions[index]}


def test_an_encoder_of_ones_own_is_not_trusted(data) -> None:
    with pytest.raises(NotFiniteError, match=r"image embeddings .* 3 of 3 inputs"):
        embed(
            lambda modality, inputs: torch.full((len(inputs), 2), NAN),
            data.eval_dataloader("test"),
            "image",
        )


def test_ranks_do_not_compare_with_nan() -> None:
    similarity = torch.tensor([[0.9, 0.1], [NAN, 0.2]])
    with pytest.raises(ValueError, match="a similarity is NaN"):
        ranks(similarity, torch.eye(2).bool())


class Levels(PairData):
    """Pictures of one pixel, two of them bright."""

    name = "levels"
    class_names = ("dark", "bright")

    def build_splits(self) -> dict[str, Items]:
        images = torch.tensor([0, 10, 200, 255], dtype=torch.uint8).view(4, 1, 1)
        labeled = Pictures(images, [0, 0, 1, 1])
        return {"train": labeled, "val": labeled, "test": labeled}


@pytest.fixture
def levels() -> tuple[MLP, Levels]:
    """The largest of NaN is NaN: by it, a class would be right for what it is not."""
    backbone, data = MLP(size=1, hidden=[1], classes=2), Levels(batch_size=4)
    data.attach(backbone)
    return backbone, data


def test_accuracy(levels: tuple[MLP, Levels], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, data = levels
    assert evaluate(backbone, data, {"accuracy": Accuracy()}, "test")
    spoil(monkeypatch, backbone, "image", lambda pixels: pixels.flatten() > 0.5, NAN)
    with pytest.raises(NotFiniteError, match=r"2 of 4 inputs \(2, 3\)"):
        evaluate(backbone, data, {"accuracy": Accuracy()}, "test")


def test_perplexity(tmp_path: Path, tiny_data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = FAMILIES["llava"].build(tmp_path)
    tiny_data.attach(backbone)
    plain = backbone.answer_logits

    def spoilt(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, targets = plain(batch)
        logits[3, 0] = NAN
        return logits, targets

    monkeypatch.setattr(backbone, "answer_logits", spoilt)
    with pytest.raises(NotFiniteError, match=r"losses of the captions of test .* 1 of 8 .*"):
        evaluate(backbone, tiny_data, {"perplexity": Perplexity()}, "test")


def test_a_metric_that_is_none(model, data) -> None:
    def odd(encode: Any, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        yield "odd/one", NAN

    with pytest.raises(ValueError, match="mine gives odd/one=nan"):
        evaluate(model, data, {"mine": odd}, "test")


def in_validation(row: int) -> Callable[[Tensor], list[int]]:
    """That row of a batch, except in training."""
    return lambda inputs: [] if torch.is_grad_enabled() else [row]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_validation_of_pairs(
    modality: str,
    tiny_backbone: Backbone,
    tiny_data: PairData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch, tiny_backbone, modality, in_validation(5), NAN)
    expected = (
        rf"{modality} embeddings of val, at step \d+, are NaN or infinite for 1 of 8 inputs \(5"
    )
    with pytest.raises(NotFiniteError, match=expected):
        fit(tiny_backbone, tiny_data, max_epochs=1, limit_val_batches=1.0, objective=Objective())


def test_validation_of_a_classifier(
    levels: tuple[MLP, Levels], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, data = levels
    spoil(monkeypatch, backbone, "image", in_validation(2), NAN)
    with pytest.raises(NotFiniteError, match=r"logits of val, at step 1, .* 1 of 4 inputs \(2\)"):
        fit(backbone, data, max_epochs=1, limit_val_batches=1.0, objective=CrossEntropy())
