"""Questions on OpenMoji pictures, made from what Unicode says of each: nothing is to be downloaded.

| kind | question | answer |
|---|---|---|
| `name` | What is its name? | the English name: "woman astronaut medium skin tone" |
| `subgroup` | Which subgroup is it? | Unicode's subgroup of people: "person role" |
| `skin_tone` | Which skin tone? | one of five |
| `presence` | Is there a WORD? | yes or no, for a word of names |

Pictures are split as in `data=openmoji`: those of `val` and `test` have names that are new
combinations of known words, and the packaged model has not seen them.

In `val` and `test` the answers of a kind are balanced, so that knowing the question alone does not
help: every subgroup and skin tone equally often, and for each word as many pictures with it as
without. Names are all different. Unicode's groups above the subgroups are not asked for: nearly all
pictures that are held out are of one group.
"""

import collections
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from mmcompress.data.base import PairData
from mmcompress.data.emoji_groups import subgroups
from mmcompress.data.items import Item, Items
from mmcompress.data.openmoji import load_pairs, moved_a_little, skin_tone, split_pairs

NAME, SUBGROUP, SKIN_TONE, PRESENCE = "name", "subgroup", "skin_tone", "presence"
KINDS = (NAME, SUBGROUP, SKIN_TONE, PRESENCE)

PROMPTS = {
    NAME: "what is its name ?",
    SUBGROUP: "which subgroup is it ?",
    SKIN_TONE: "which skin tone ?",
    PRESENCE: "is there a {} ?",
}
YES, NO = "yes", "no"

COMMON = frozenset({"skin", "tone", "with", "and", "of", "in", "the", "on", "at", "no", "not"})
"""Words of names that nobody would ask for."""

LEAST = 4
"""Pictures of a split that a subgroup must have to be asked for there."""


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        picture: index among all pictures.
        kind: of `KINDS`.
        prompt, answer: the texts.
    """

    picture: int
    kind: str
    prompt: str
    answer: str


class AskedEmojis(Items):
    """Questions on pictures.

    Args:
        questions: of a split.
        pictures: all pictures, (N, 3, 64, 64) uint8.
        blind: give a white picture in the place of each.
        augment: of a picture.
    """

    def __init__(
        self,
        questions: Sequence[Asked],
        pictures: Tensor,
        *,
        blind: bool = False,
        augment: v2.Transform | None = None,
    ) -> None:
        self.questions, self.pictures, self.blind = questions, pictures, blind
        self.augment = augment

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def keys(self) -> list[str]:
        return [f"{q.picture} {q.prompt}" for q in self.questions]

    def read(self, index: int) -> Item:
        asked = self.questions[index]
        picture = self.pictures[asked.picture]
        return {
            "image": picture.new_full(picture.shape, 255) if self.blind else picture,
            "prompt": asked.prompt,
            "text": [asked.answer],
            "kind": asked.kind,
        }


class EmojiQuestions(PairData):
    """Questions on OpenMoji pictures, as a Lightning data module.

    Args:
        augment: rotate, scale and shift training pictures a little.
        blind: show white in the place of every picture, in all splits: what a model then answers
            it knows from the question alone.
        **kwargs: batch sizes, workers and calibration size of `PairData`.
    """

    name = "emoji_questions"

    def __init__(self, *, augment: bool = True, blind: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augment, self.blind = augment, blind

    def build_splits(self) -> dict[str, Items]:
        pictures, names = load_pairs()
        return {
            split: AskedEmojis(
                questions,
                pictures,
                blind=self.blind,
                augment=moved_a_little()
                if split == "train" and self.augment and not self.blind
                else None,
            )
            for split, questions in split_questions(names).items()
        }


def split_questions(names: Sequence[str]) -> dict[str, list[Asked]]:
    """The questions of each split; those of `val` and `test` are balanced.

    Args:
        names: of all pictures.
    """
    of_name, found = subgroups(), {}
    splits = split_pairs(names)
    for split, rows in splits.items():
        even = split != "train"
        draw = random.Random(split)  # of its name: the same everywhere
        groups = {
            row: of_name[names[row]].replace("-", " ") for row in rows if names[row] in of_name
        }
        tones = {row: tone for row in rows if (tone := skin_tone(names[row])) is not None}
        questions = [Asked(row, NAME, PROMPTS[NAME], names[row]) for row in rows]
        for kind, answers in ((SUBGROUP, groups), (SKIN_TONE, tones)):
            kept = balanced(answers, draw) if even else answers.items()
            questions += [Asked(row, kind, PROMPTS[kind], answer) for row, answer in kept]
        questions += presence(names, rows, draw)
        found[split] = questions
    return found


def balanced(answers: Mapping[int, str], draw: random.Random) -> list[tuple[int, str]]:
    """Some pictures and their answers, each answer equally often.

    Answers that fewer than `LEAST` pictures have are left out.

    Example:
        >>> rows = dict(enumerate(["a"] * 5 + ["b"] * 9 + ["c"]))
        >>> sorted(answer for _, answer in balanced(rows, random.Random(0)))
        ['a', 'a', 'a', 'a', 'a', 'b', 'b', 'b', 'b', 'b']
    """
    by_answer: dict[str, list[int]] = collections.defaultdict(list)
    for row, answer in answers.items():
        by_answer[answer].append(row)
    kept = {answer: rows for answer, rows in by_answer.items() if len(rows) >= LEAST}
    each = min(map(len, kept.values()), default=0)
    return [(row, answer) for answer, rows in kept.items() for row in draw.sample(rows, each)]


def presence(names: Sequence[str], rows: Iterable[int], draw: random.Random) -> list[Asked]:
    """For a word of each picture's name: is it there, and on another picture, where it is not?"""
    rows = list(rows)
    words = {row: set(names[row].split()) for row in rows}
    questions = []
    for row in rows:
        candidates = sorted(word for word in words[row] - COMMON if word.isalpha())
        if not candidates:
            continue
        word = draw.choice(candidates)
        without = [other for other in rows if word not in words[other]]
        if not without:
            continue
        prompt = PROMPTS[PRESENCE].format(word)
        questions += [
            Asked(row, PRESENCE, prompt, YES),
            Asked(draw.choice(without), PRESENCE, prompt, NO),
        ]
    return questions
