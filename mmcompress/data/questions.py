"""Questions about images, and instructions: JSON lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcompress.backbones.examples import Turn
from mmcompress.data.base import PairData
from mmcompress.data.items import Item, Items
from mmcompress.data.rows import json_objects
from mmcompress.data.splits import SHARE, complete
from mmcompress.data.text import check_characters
from mmcompress.inputs.files import Unreadable, read_image

SPEAKERS = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}
"""Who speaks, as files call them → as `Turn` does."""

PLACE = "<image>"
"""Where a conversation of LLaVA's data has its image; the model's own processor finds the place."""


@dataclass(frozen=True)
class Question:
    """One line.

    Attributes:
        prompt: a question, or a conversation.
        answers: that count as right.
        images: their paths.
        key: name of the item.
    """

    prompt: str | tuple[Turn, ...]
    answers: tuple[str, ...]
    images: tuple[Path, ...]
    key: str


class AskedItems(Items):
    """Questions, whose images are read when they are asked for."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def keys(self) -> list[str]:
        """The image's path, so that questions on one image are held out together."""
        return [question.key for question in self.questions]

    def read(self, index: int) -> Item:
        question = self.questions[index]
        item: Item = {"prompt": question.prompt, "text": list(question.answers)}
        images = []
        for path in question.images:
            try:
                images.append(read_image(path))
            except Unreadable as error:
                raise error.within(str(path)) from error
        return item | {"image": images} if images else item


class Questions(PairData):
    """Questions in JSON lines, as a Lightning data module.

    A line has `question` and `answers` (a text or a list; the first one is trained on), and `image`
    where there is one (a path or a list):

        {"image": "cat.jpg", "question": "What is this?", "answers": ["a cat", "cat"]}

    In place of a question there may be `conversation` (or `conversations`): a list of turns
    `{"role": "user", "content": "…"}`, or `{"from": "human", "value": "…"}` as in LLaVA's data.
    Without `answers` its last turn is the answer.

    Args:
        files: split → JSON lines; `train` must be one.
        root: what paths are relative to; the folder of their file when None.
        val_share: of `train` that becomes `val` where there is no such file.
        **kwargs: of `PairData`.
    Raises:
        ValueError: a file that is missing, or a line that does not fit, by its number.
    """

    name = "questions"
    remedy = "set data.root to the folder that the paths of the images are relative to"

    def __init__(
        self,
        *,
        files: Mapping[str, str | None],
        root: str | None = None,
        val_share: float = SHARE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if "train" not in files:
            raise ValueError("data.files must name a file for train: data.files.train=vqa.jsonl")
        self.files = {split: Path(file) for split, file in files.items() if file is not None}
        self.root, self.val_share = None if root is None else Path(root), val_share

    def build_splits(self) -> dict[str, Items]:
        splits: dict[str, Items] = {
            split: AskedItems(read_questions(file, self.root)) for split, file in self.files.items()
        }
        return self.checked(complete(splits, val_share=self.val_share))


def read_questions(file: Path, root: Path | None = None) -> list[Question]:
    """The lines of a file.

    Args:
        root: what paths are relative to; the folder of the file when None.
    Raises:
        ValueError: it is missing, or a line does not fit; names its number.
    """
    if not file.is_file():
        raise ValueError(f"data.files: {file} is no file: give the path of JSON lines")
    return [_question(row, where, root or file.parent) for where, row in json_objects(file)]


def _question(row: Mapping[str, Any], where: str, root: Path) -> Question:
    images = _texts(row.get("image"), where, "image", "the path of a file, or a list of them")
    said = row.get("conversation", row.get("conversations"))
    answers = row.get("answers", row.get("answer"))
    prompt: str | tuple[Turn, ...]
    if said is not None:
        turns = _turns(said, where)
        if answers is None and turns[-1][0] == "assistant":
            *turns, (_, answers) = turns
        if not turns or turns[-1][0] != "user":
            raise ValueError(f"{where}, has a conversation in which the user does not come last")
        prompt = tuple(turns)
    else:
        prompt = row.get("question", "")
        if not isinstance(prompt, str) or not prompt.strip():
            has = f"the image {images[0]!r}" if images else "neither image nor question"
            raise ValueError(
                f"{where}, has {has} and asks nothing: give a question or a conversation, or use "
                "data=table for captions"
            )
        check_characters(prompt, where)
    found = _texts(answers, where, "answers", "a text, or a list of texts")
    if not found:
        raise ValueError(f"{where}, has no answer that counts as right: give one, or remove it")
    key = images[0] if images else where
    return Question(prompt, found, tuple(root / path for path in images), key)


def _turns(said: Any, where: str) -> list[Turn]:
    turns: list[Turn] = []
    for turn in said if isinstance(said, list) else [said]:
        found = turn if isinstance(turn, dict) else {}
        role = SPEAKERS.get(str(found.get("role", found.get("from"))))
        text = found.get("content", found.get("value"))
        if role is None or not isinstance(text, str):
            raise ValueError(
                f"{where}, has the turn {json.dumps(turn, default=str)[:60]}: give a role (user, "
                "assistant or system) and its content, a text"
            )
        check_characters(text, where)
        turns.append((role, text.replace(PLACE, "").strip()))
    if not turns:
        raise ValueError(f"{where}, has an empty conversation: give a turn, or remove it")
    return turns


def _texts(value: Any, where: str, key: str, wanted: str) -> tuple[str, ...]:
    texts = [] if value is None else value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            shown = json.dumps(value, default=str)[:60]
            raise ValueError(f"{where}, has {shown} as {key}: give {wanted}")
        check_characters(text, where)
    return tuple(text.strip() for text in texts)
