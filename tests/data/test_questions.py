"""Questions on images, in JSON lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcompress.backbones.hf.vlm import HFVlm
from mmcompress.data.examples import EXAMPLES
from mmcompress.data.questions import Questions, read_questions
from mmcompress.functional.tokens import IGNORED
from mmcompress.testing.zoo.vlm import build_vlm

TURNS = (("system", "Be brief."), ("user", "A cat?"), ("assistant", "yes"), ("user", "Red?"))
CHAT = [{"role": role, "content": text} for role, text in TURNS]
ROWS: list[dict[str, Any]] = [
    {"image": "a.jpg", "question": "What is this?", "answers": ["a cat", "cat"]},
    {"image": ["a.jpg", "b.jpg"], "question": "Which is red?", "answer": "the first"},
    {"question": "What is one and one?", "answers": "two"},
    {"image": "b.jpg", "conversation": CHAT, "answers": ["no"]},
    {
        "image": "c.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "A dog."},
        ],
    },
]


def write(folder: Path, rows: list[Any], name: str = "vqa.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def test_every_form_of_a_line(tmp_path: Path) -> None:
    found = read_questions(write(tmp_path, ROWS))
    assert [question.answers for question in found] == [
        ("a cat", "cat"),
        ("the first",),
        ("two",),
        ("no",),
        ("A dog.",),
    ]
    assert [len(question.images) for question in found] == [1, 2, 0, 1, 1]
    assert found[0].images == (tmp_path / "a.jpg",)
    assert found[3].prompt == TURNS
    assert found[4].prompt == (("user", "What is this?"),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "answers": ["x"]}, "line 1, has the image 'a.jpg' and asks nothing"),
        ({"answers": ["x"]}, "has neither image nor question and asks nothing: give a question"),
        ({"question": "Why?", "answers": []}, "has no answer that counts as right: give one"),
        ({"question": "Why?"}, "has no answer that counts as right: give one"),
        ({"question": "Why?", "answers": ["", "x"]}, r'has \["", "x"\] as answers: give a text'),
        ({"question": "Why?", "answers": [1]}, r"has \[1\] as answers: give a text, or a list"),
        ({"image": 3, "question": "Why?", "answers": ["x"]}, "has 3 as image: give the path"),
        ({"conversation": []}, "has an empty conversation"),
        ({"conversation": CHAT[:3], "answers": ["x"]}, "in which the user does not come last"),
        ({"conversation": CHAT}, "has no answer that counts as right"),
        ({"conversation": [{"role": "bot", "content": "x"}]}, 'has the turn {"role": "bot"'),
        ([1], "line 1, is no JSON object"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_line(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path, [row]))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file: give the path of JSON lines"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="must name a file for train"):
        Questions(files={"test": "a.jsonl"})


@pytest.fixture(scope="module")
def backbone() -> HFVlm:
    return build_vlm("smolvlm")


def test_batches_of_questions(
    image_files: Callable[..., Path], backbone: HFVlm, caplog: pytest.LogCaptureFixture
) -> None:
    """One image that is missing is lost; text-only questions and several images go together."""
    folder = image_files("a.jpg", "b.jpg")
    file = write(folder, ROWS)
    data = Questions(files={"train": str(file), "test": str(file)}, batch_size=2)
    data.attach(backbone)
    assert len(data.splits["val"]) == 1
    (batch,) = data.eval_dataloader("test")
    answered = [backbone.inputs.text(row[row != IGNORED].tolist()) for row in batch["labels"]]
    assert answered == ["a cat", "the first", "two", "no"]
    (listed,) = data.example_dataloader("test")
    assert [example.answers[0] for example in listed[EXAMPLES]] == answered
    assert [len(example.images) for example in listed[EXAMPLES]] == [1, 2, 0, 1]
    assert "c.jpg" in caplog.text
    assert [len(trained["labels"]) for trained in data.train_dataloader()] in ([2, 1], [1, 2])
