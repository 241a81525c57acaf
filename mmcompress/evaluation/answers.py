"""How right the answers of a model are: one pass of generation, several measures."""

from collections.abc import Callable, Iterator, Sequence

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode
from mmcompress.evaluation.generation import MAX_TOKENS, answered, check_max_tokens, written
from mmcompress.evaluation.normalizers import NORMALIZERS, check_normalizer
from mmcompress.functional.answers import (
    anls,
    exact_match,
    relaxed_accuracy,
    rouge_l,
    vqa_accuracy,
)
from mmcompress.functional.score import Score
from mmcompress.system.extras import needs_package

MEASURES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "vqa_accuracy": vqa_accuracy,
    "anls": anls,
    "relaxed_accuracy": relaxed_accuracy,
    "rouge_l": rouge_l,
}


@needs_package("rapidfuzz", extra="texts")
class Answers:
    """Yields `answers/exact_match` and so on, one metric for each measure: means over the items.

    Where the questions are of several kinds there is one for each besides, such as
    `answers/exact_match/skin_tone`.

    Args:
        measures: keys of `MEASURES`.
        normalizer: how both sides are written before they are an exact match: a key of
            `NORMALIZERS`; the other measures have rules of their own.
        max_tokens: that an answer has at most.
    """

    def __init__(
        self,
        *,
        measures: Sequence[str] = ("exact_match",),
        normalizer: str = "plain",
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        unknown = [name for name in measures if name not in MEASURES]
        if unknown or not measures:
            raise ValueError(
                f"answers.measures={list(measures)} must be some of {', '.join(MEASURES)}"
            )
        check_normalizer(normalizer, "answers.normalizer")
        check_max_tokens(max_tokens, "answers.max_tokens")
        self.measures, self.normalizer, self.max_tokens = list(measures), normalizer, max_tokens

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        if not answered(data, split, "evaluation of answers"):
            return
        given, asked = written(encode, data, split, max_tokens=self.max_tokens)
        normalize = NORMALIZERS[self.normalizer](data.backbone)
        kinds = sorted({example.kind for example in asked} - {""})
        for name in self.measures:
            exact = name == "exact_match"
            hits = [
                MEASURES[name](
                    normalize(text) if exact else text,
                    [normalize(answer) if exact else answer for answer in example.answers],
                )
                for text, example in zip(given, asked, strict=True)
            ]
            yield f"answers/{name}", Score.of_hits(hits)
            for kind in kinds:
                of_kind = [hit for hit, one in zip(hits, asked, strict=True) if one.kind == kind]
                yield f"answers/{name}/{kind}", Score.of_hits(of_kind)
