"""Word and character error rate of what a model hears."""

from collections.abc import Iterator

import numpy as np

from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Encode
from mmcompress.evaluation.generation import answered, check_max_tokens, written
from mmcompress.evaluation.normalizers import NORMALIZERS, check_normalizer
from mmcompress.functional.score import Score
from mmcompress.functional.transcripts import character_errors, word_errors
from mmcompress.system.extras import needs_package


@needs_package("jiwer", extra="texts")
class Transcription:
    """Yields `transcription/wer`, `transcription/cer`, and `transcription/utterance_acc`, the share
    of utterances without an error.

    Rates are over all words of the split: errors / words, by jiwer. The transcript of an utterance
    is the first of its texts, and what the model writes is the most probable token at each place.

    Args:
        normalizer: how both sides are written: a key of `NORMALIZERS`.
        max_tokens: that a transcript has at most; it bounds a model that repeats itself.
    """

    def __init__(self, *, normalizer: str = "whisper", max_tokens: int = 224) -> None:
        check_normalizer(normalizer, "transcription.normalizer")
        check_max_tokens(max_tokens, "transcription.max_tokens")
        self.normalizer, self.max_tokens = normalizer, max_tokens

    def __call__(self, encode: Encode, data: PairData, split: str) -> Iterator[tuple[str, float]]:
        if not answered(data, split, "evaluation of transcripts"):
            return
        heard, asked = written(encode, data, split, max_tokens=self.max_tokens)
        normalize = NORMALIZERS[self.normalizer](data.backbone)
        said = [normalize(example.answers[0]) for example in asked]
        heard = [normalize(text) for text in heard]
        words = word_errors(said, heard)
        if not words[:, 1].any():
            raise ValueError(
                f"data {data.name}: no transcript of {split} has a word after "
                f"transcription.normalizer={self.normalizer}: choose another"
            )
        yield "transcription/wer", Score(words[:, None])
        yield "transcription/cer", Score(character_errors(said, heard)[:, None])
        yield "transcription/utterance_acc", Score.of_hits(np.equal(words[:, 0], 0))
