"""Transcripts → the tokens that Whisper's decoder is trained on, and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperTokenizer

from mmcompress.backbones.hf.tokenizer_files import CONFIG_FILE, MOST_TOKENS, forget_place
from mmcompress.backbones.passes import LABELS, TOKEN_KIND
from mmcompress.functional.tokens import IGNORED, PADDING, TEXT
from mmcompress.system.files import write_json

SPELLINGS_FILE = "normalizer.json"


class Transcripts:
    """Prepares texts as `WhisperTokenizer` does: a prompt, the text, an end.

    Args:
        tokenizer: of the model.
        config: of the model.
        language, task: for models of several languages.
    Attributes:
        prefix: the prompt's tokens, which nobody predicts.
    Raises:
        ValueError: an unknown language, or tokens that the model lacks.
    """

    def __init__(
        self, tokenizer: WhisperTokenizer, config: Any, *, language: str | None, task: str | None
    ) -> None:
        tokenizer.set_prefix_tokens(language=language, task=task, predict_timestamps=False)
        self.tokenizer = tokenizer
        self.prefix: list[int] = tokenizer.prefix_tokens
        self._end: int = config.eos_token_id
        self._most: int = config.max_target_positions
        highest = max(tokenizer.get_vocab().values())
        if highest >= MOST_TOKENS or max(*self.prefix, self._end) >= config.vocab_size:
            raise ValueError(
                f"its tokenizer has ids up to {highest} and the model has embeddings for "
                f"{config.vocab_size}: give the tokenizer that belongs to it"
            )

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`decoder_input_ids`, `token_kind` and `labels`, (B, L) int64 each.

        Labels of prompt and padding are `IGNORED`: what is said and the end count.

        Raises:
            ValueError: a text is longer than the decoder reads.
        """
        rows = [self._row(text) for text in texts]
        length = max(map(len, rows)) - 1
        ids = torch.full((len(rows), length), self._end)
        labels = torch.full((len(rows), length), IGNORED)
        kinds = torch.full((len(rows), length), PADDING)
        for index, row in enumerate(rows):
            ids[index, : len(row) - 1] = torch.tensor(row[:-1])
            first = len(self.prefix) - 1
            labels[index, first : len(row) - 1] = torch.tensor(row[first + 1 :])
            kinds[index, : len(row) - 1] = TEXT
        return {"decoder_input_ids": ids, TOKEN_KIND: kinds, LABELS: labels}

    def _row(self, text: str) -> list[int]:
        said = self.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
        row = [*self.prefix, *said, self._end]
        if len(row) - 1 > self._most:
            raise ValueError(
                f"the transcript {text.strip()[:40]!r}… has {len(row) - 1} tokens and the decoder "
                f"reads {self._most}: cut sound and transcript"
            )
        return row

    def read(self, ids: Tensor) -> list[str]:
        """The texts of generated tokens (B, L), without special tokens."""
        found = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in found]

    def save(self, folder: Path) -> list[str]:
        """Write the files that `stored` reads; gives back their names."""
        saved = self.tokenizer.save_pretrained(folder)
        forget_place(folder / CONFIG_FILE)
        names = {Path(file).name for file in saved if Path(file).is_file()}
        spellings = self.tokenizer.english_spelling_normalizer
        if spellings is not None:  # which transformers 5 reads and does not write
            write_json(folder / SPELLINGS_FILE, spellings)
            names.add(SPELLINGS_FILE)
        return sorted(names)

    @staticmethod
    def stored(folder: Path) -> WhisperTokenizer:
        """What `save` wrote; no other class is reached from there, and no network."""
        return WhisperTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
