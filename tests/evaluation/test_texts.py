"""Evaluators of generated texts, on utterances that stand in for what a model hears."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("jiwer")
pytest.importorskip("rapidfuzz")
pytest.importorskip("jiwer")

from mmcompress.backbones.examples import Example
from mmcompress.data.pairs import GivenPairs
from mmcompress.evaluation.answers import Answers
from mmcompress.evaluation.baseline import content_key
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.teacher_forced import TeacherForced, TokenAgreement
from mmcompress.evaluation.transcription import Transcription
from mmcompress.functional.score import Score, intervals
from mmcompress.functional.tokens import IGNORED
from mmcompress.testing.zoo.speech import build_whisper

SAID = ["four five six", "nine zero", "one two three"]


class Says:
    """A model that writes what it is told to."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = iter(texts)

    def __call__(self, modality: str, inputs: Tensor, /) -> Tensor:
        raise AssertionError("nothing is embedded here")

    def answer_logits(self, batch: object) -> tuple[Tensor, Tensor]:
        raise AssertionError("nothing is forced here")

    def generate(self, examples: Sequence[Example], *, max_tokens: int) -> list[str]:
        assert max_tokens == 24
        return [next(self.texts) for _ in examples]


@pytest.fixture
def data() -> GivenPairs:
    waves = np.random.default_rng(0).uniform(-0.3, 0.3, (3, 8000)).astype(np.float32)
    pairs = [((wave, 8000), text) for wave, text in zip(waves, SAID, strict=True)]
    found = GivenPairs({"test": pairs}, eval_batch_size=2)
    found.attach(build_whisper())
    return found


def scored(data: GivenPairs, texts: Sequence[str], **options: object) -> dict[str, float]:
    settings = {"normalizer": "digits_to_words", "max_tokens": 24} | options
    return evaluate(Says(texts), data, {"transcription": Transcription(**settings)}, "test")


def test_error_rates_are_over_all_words(data: GivenPairs) -> None:
    found = scored(data, ["456", "Nine, zero.", "one too"])
    assert found["transcription/wer"] == 2 / 8
    letters = sum(map(len, SAID))
    # "three" and its space are missing, and one letter of "two" is another
    assert found["transcription/cer"] == pytest.approx(7 / letters)
    assert found["transcription/utterance_acc"] == pytest.approx(2 / 3)


def test_whispers_normalizer_makes_one_word_of_digits(data: GivenPairs) -> None:
    assert scored(data, ["457", "90", "123"], normalizer="whisper")["transcription/wer"] == 1 / 3


def test_intervals_are_paired_over_utterances(data: GivenPairs) -> None:
    dense = scored(data, ["456", "nine", "123"])
    small = scored(data, ["456", "nine", "123"])
    assert isinstance(small["transcription/wer"], Score)
    assert intervals(dense, small)["transcription/wer"]["delta"] == [0.0, 0.0]
    assert intervals(dense, small)["transcription/wer"]["items"] == 8


def test_transcripts_without_a_word_are_one_sentence() -> None:
    data = GivenPairs({"test": [((np.ones(80, np.float32), 8000), "...")]})
    data.attach(build_whisper())
    with pytest.raises(ValueError, match=r"no transcript of test has a word after transcription"):
        scored(data, ["one"])


def test_answers_by_every_measure(data: GivenPairs) -> None:
    measures = ["exact_match", "vqa_accuracy", "anls", "relaxed_accuracy", "rouge_l"]
    answers = Answers(measures=measures, max_tokens=24)
    given = ["Four five  six", "nine nero", "one"]
    found = evaluate(Says(given), data, {"answers": answers}, "test")
    assert found == {
        "answers/exact_match": pytest.approx(1 / 3),
        "answers/vqa_accuracy": pytest.approx(1 / 3),
        "answers/anls": pytest.approx((1 + 8 / 9) / 3),
        "answers/relaxed_accuracy": 0,  # which looks at spaces
        "answers/rouge_l": pytest.approx((1 + 0.5 + 0.5) / 3),
    }


def test_cross_entropy_is_over_all_tokens(data: GivenPairs) -> None:
    backbone = data.backbone
    found = evaluate(backbone, data, {"forced": TeacherForced()}, "test")
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(
                *(part.flatten(0, 1) for part in backbone.answer_logits(batch)),
                ignore_index=IGNORED,
                reduction="sum",
            ).item()
            for batch in data.eval_dataloader("test")
        ]
    tokens = sum(len(f" {text}") + 1 for text in SAID)  # a token is a byte; and the end
    mean = sum(losses) / tokens
    assert found["teacher_forced/cross_entropy"] == pytest.approx(mean, rel=1e-5)
    assert found["teacher_forced/perplexity"] == pytest.approx(np.exp(mean), rel=1e-5)
    assert found["teacher_forced/cross_entropy"].items == tokens


def test_a_model_agrees_with_itself_and_less_with_another(data: GivenPairs) -> None:
    evaluators = {"agreement": TokenAgreement()}
    same = evaluate(data.backbone, data, evaluators, "test", dense=data.backbone)
    lengths = [len(f" {text}") + 1 for text in SAID]
    assert same["agreement/tokens"] == 1
    assert same["agreement/logit_kl"] == pytest.approx(0, abs=1e-6)
    assert same["agreement/first_differing"] == pytest.approx(sum(lengths) / 3)
    other = build_whisper()
    with torch.no_grad():
        other.model.proj_out.weight.mul_(-1)
    found = evaluate(other, data, evaluators, "test", dense=data.backbone)
    assert found["agreement/tokens"] < 0.2
    assert found["agreement/logit_kl"] > 0.1


def test_a_model_that_writes_nothing_is_one_sentence() -> None:
    from mmcompress.testing.zoo.hf import build_clap

    data = GivenPairs({"test": [((np.ones(80, np.float32), 8000), "one")]})
    data.attach(build_clap())
    with pytest.raises(ValueError, match=r"transcripts is for a generative model and HF is none"):
        scored(data, ["one"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transcription(normalizer="x"), r"transcription.normalizer='x' must be one of"),
        (lambda: Transcription(max_tokens=0), r"transcription.max_tokens=0 must be at least 1"),
        (lambda: Answers(measures=["bleu"]), r"answers.measures=\['bleu'\] must be some of exact"),
        (lambda: Answers(measures=[]), r"answers.measures=\[\] must be some of"),
    ],
)
def test_settings_that_cannot_be(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_key_the_baseline(data: GivenPairs) -> None:
    keys = {
        content_key(data.backbone, data, {"transcription": Transcription(normalizer=name)}, "test")
        for name in ("whisper", "plain")
    }
    assert len(keys) == 2
