"""Inputs of image-text models of transformers, made by the library's own processor.

The processor and its chat template make what stands before an answer: text, images, and as many
places for each image as the model wants. The answer's tokens are put behind it here, so that the
model learns to go on from exactly what it reads when it is asked.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.examples import Example
from mmcompress.backbones.passes import LABELS, TOKEN_KIND
from mmcompress.functional.tokens import IGNORED, IMAGE, PADDING, TEXT

IDS, MASK = "input_ids", "attention_mask"

SUFFIX = {"paligemma": {"token_type_ids": 1}}
"""Type of model → what its keys say of an answer's tokens, where that is not 0."""

NOT_FOR_THE_MODEL = (LABELS, TOKEN_KIND)


class Inputs:
    """Makes batches of examples.

    Args:
        processor: of transformers.
        model_type: of the model's config.
        image_token: id that stands for a piece of an image.
        ends: ids that end an answer.
        context: tokens that the model reads at most.
    Raises:
        ValueError: the processor has no tokenizer, or the tokenizer cannot pad.
    """

    def __init__(
        self,
        processor: Any,
        *,
        model_type: str,
        image_token: int,
        ends: Sequence[int],
        context: int,
    ) -> None:
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        if self.tokenizer is None:
            raise ValueError(
                f"the processor ({type(processor).__name__}) has no tokenizer: add tokenizer.json "
                "and tokenizer_config.json to the model's folder"
            )
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                "the tokenizer has no token to pad with: set pad_token in tokenizer_config.json"
            )
        self.processor, self.model_type = processor, model_type
        self.image_token, self.ends, self.context = image_token, tuple(ends), context

    def prepare(self, examples: Sequence[Example], *, answers: bool) -> dict[str, Tensor]:
        """See `Generator.prepare`."""
        for example in examples:
            _check(example)
        texts = [self.prompt(example) for example in examples]
        wanted = [
            self.answer(example, text) if answers else []
            for example, text in zip(examples, texts, strict=True)
        ]
        found = self._process(texts, [list(example.images) for example in examples])
        # An answer goes on from the last token; padding behind it changes nothing before it.
        side = "right" if answers else "left"
        rows = found[MASK].bool()
        for example, row, answer in zip(examples, rows, wanted, strict=True):
            self._check_length(example, int(row.sum()) + len(answer))
        ids = found[IDS]
        kinds = torch.where(ids == self.image_token, IMAGE, TEXT)
        sequences = {key: value for key, value in found.items() if value.shape == ids.shape}
        sequences |= {TOKEN_KIND: kinds, LABELS: torch.full_like(ids, IGNORED)}
        given = {MASK: 1, TOKEN_KIND: TEXT, **SUFFIX.get(self.model_type, {})}
        padding = {IDS: self.tokenizer.pad_token_id, TOKEN_KIND: PADDING, LABELS: IGNORED}
        for key, values in sequences.items():
            own = key in (IDS, LABELS)
            parts = [
                torch.cat([v[r], _row(a if own else [given.get(key, 0)] * len(a), v)])
                for v, r, a in zip(values, rows, wanted, strict=True)
            ]
            found[key] = _padded(parts, padding.get(key, 0), side)
        if not answers:
            del found[LABELS]
        return found

    def prompt(self, example: Example) -> str:
        """What the model reads before the answer, with a token for each image."""
        if self.processor.chat_template is None:
            places = self.processor.image_token * len(example.images)
            return places + " ".join(text for _, text in example.turns)
        return self.processor.apply_chat_template(
            _conversation(example), tokenize=False, add_generation_prompt=True
        )

    def answer(self, example: Example, prompt: str) -> list[int]:
        """Ids of the first answer, up to the token that ends it."""
        text = example.first_answer
        if self.processor.chat_template is not None:
            said = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
            whole = self.processor.apply_chat_template(
                _conversation(example) + said, tokenize=False, add_generation_prompt=False
            )
            if whole.startswith(prompt):
                text = whole.removeprefix(prompt)
        ids = self.tokenizer(text, add_special_tokens=False)[IDS]
        end = next((place for place, one in enumerate(ids) if one in self.ends), None)
        return [*ids, self.ends[0]] if end is None else ids[: end + 1]

    def text(self, ids: Sequence[int]) -> str:
        """An answer's words, up to the token that ends it."""
        end = next((place for place, one in enumerate(ids) if one in self.ends), len(ids))
        return self.tokenizer.decode(list(ids)[:end], skip_special_tokens=True).strip()

    def _process(self, texts: list[str], images: list[list[Any]]) -> dict[str, Tensor]:
        first = self.tokenizer.bos_token
        doubled = first is not None and all(text.startswith(first) for text in texts)
        options = {"add_special_tokens": False} if doubled else {}
        seen = {"images": images} if any(images) else {}
        with warnings.catch_warnings():
            # PaliGemma's processor makes labels through numpy, which are dropped.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            found = self.processor(text=texts, **seen, padding=True, return_tensors="pt", **options)
        found.pop(LABELS, None)
        return {key: value for key, value in found.items() if isinstance(value, Tensor)}

    def _check_length(self, example: Example, tokens: int) -> None:
        if tokens > self.context:
            raise ValueError(
                f"the prompt {_shown(example)!r} with its images and answer takes {tokens} tokens "
                f"and the model reads {self.context}: shorten it, or set smaller images in "
                "preprocessor_config.json"
            )


def _check(example: Example) -> None:
    if example.sound is not None:
        raise ValueError(
            f"the example {_shown(example)!r} has a sound and backbone=hf_vlm hears none: choose "
            "backbone=hf_speech"
        )
    if not example.images and not any(text.strip() for _, text in example.turns):
        raise ValueError("an example has neither a prompt nor an image: give one, or remove it")


def _shown(example: Example) -> str:
    return example.turns[-1][1][:60]


def _conversation(example: Example) -> list[dict[str, Any]]:
    """As chat templates take it; the images in the first turn of the user."""
    found, images = [], [{"type": "image"} for _ in example.images]
    for role, text in example.turns:
        content: list[dict[str, Any]] = []
        if role == "user":
            content, images = images, []
        found.append({"role": role, "content": [*content, *_words(text)]})
    return found


def _words(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _row(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype)


def _padded(rows: Sequence[Tensor], value: int, side: str) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=value, padding_side=side
    )
