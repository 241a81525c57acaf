"""What evaluators of generated texts share: the texts that a model writes for a split."""

import logging

from mmcompress.backbones.capabilities import generator
from mmcompress.backbones.examples import Example
from mmcompress.data.base import PairData
from mmcompress.data.examples import EXAMPLES
from mmcompress.evaluation.base import Encode
from mmcompress.system.progress import progress

log = logging.getLogger(__name__)

MAX_TOKENS = 64


def answered(data: PairData, split: str, what: str) -> bool:
    """Whether a split has texts to compare with, and the backbone writes some.

    Args:
        what: is left out where there are none; logged.
    Raises:
        ValueError: the backbone writes no text.
    """
    generator(data.backbone, f"{what} is for", "set evaluation=default")
    if not data.splits[split].captioned:
        log.warning("data %s has no texts in %s: %s left out", data.name, split, what)
        return False
    return True


def written(
    encode: Encode, data: PairData, split: str, *, max_tokens: int
) -> tuple[list[str], list[Example]]:
    """What the model writes for each item, greedily, and what was asked.

    Args:
        max_tokens: that a text has at most.
    """
    texts: list[str] = []
    asked: list[Example] = []
    for batch in progress(data.example_dataloader(split), "generate"):
        texts += encode.generate(batch[EXAMPLES], max_tokens=max_tokens)
        asked += batch[EXAMPLES]
    return texts, asked


def check_max_tokens(max_tokens: int, key: str) -> None:
    """Refuse a number of tokens that leaves no text.

    Args:
        key: of the configuration that it stands at.
    Raises:
        ValueError: it is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"{key}={max_tokens} must be at least 1")
