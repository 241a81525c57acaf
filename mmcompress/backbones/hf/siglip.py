"""SigLIP's tokenizer, whose rules transformers has in Python, as one `tokenizer.json`.

"Sigmoid Loss for Language Image Pre-Training", Zhai et al. 2023, arXiv:2303.15343. Texts lose case
and ASCII punctuation, runs of white space become one space, and sentencepiece splits the rest.
"""

from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import SpmConverter

SPACE = "▁"
"""What sentencepiece writes for a space."""

PUNCTUATION = r"[!-/:-@\[-`{-~]"
"""`string.punctuation` of Python."""

LAST_SIGMA = r"(?<=\p{L})Σ(?!\p{L})"
"""Lower case at the end of a word is ς in Python; the library lowers each letter by itself."""

PROMPT = SPACE
"""What the class puts before each text, and before no piece of it behind a special token."""


def as_file(source: PreTrainedTokenizerBase) -> Tokenizer:
    """What gives the ids of a `SiglipTokenizer` of texts behind `PROMPT`, uncut and unpadded.

    The class loses letters that have no token right behind a special token that a text spells out;
    here they are unknown ones.
    """
    converter: Any = SpmConverter(source)
    tokenizer: Tokenizer = converter.tokenizer(converter.proto)
    charsmap = converter.proto.normalizer_spec.precompiled_charsmap
    rules = [
        (Regex(rf"(?<!\A){SPACE}"), " "),
        (Regex(LAST_SIGMA), "ς"),
        normalizers.Lowercase(),
        (Regex(PUNCTUATION), ""),
        (Regex(r"\s+"), " "),
        normalizers.Strip(),
        *([normalizers.Precompiled(charsmap)] if charsmap else []),
        (" ", SPACE),
        (Regex(f"{SPACE}{{2,}}"), SPACE),
        (Regex(rf"{SPACE}\z"), ""),
    ]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(*rule) if isinstance(rule, tuple) else rule for rule in rules]
    )
    end, number = str(source.eos_token), source.eos_token_id
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, number)]
    )
    tokenizer.add_special_tokens(list(source.added_tokens_decoder.values()))
    return tokenizer
