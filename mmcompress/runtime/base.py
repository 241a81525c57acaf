"""The interface of all runtimes: pictures, texts and sounds in, embeddings out. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from mmcompress.data.text import check_characters
from mmcompress.inputs.files import Unreadable
from mmcompress.system.progress import progress

Rows = TypeVar("Rows")
"""What embeddings are given back as: a tensor, or an array of numpy."""

SHOWN_FROM = 4
"""Batches from which on a progress bar is drawn."""

NAMES = {"image": "images", "text": "texts", "audio": "sounds"}
METHODS = {"image": "embed_images", "text": "embed_texts", "audio": "embed_audio"}


class Embedder(ABC, Generic[Rows]):
    """Embeds pictures, texts and sounds by one stored model.

    A runtime says in `modalities` what the model embeds, and implements `_read`, `_run` and
    `_joined`.
    """

    @property
    @abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """What the model embeds: some of `image`, `text` and `audio`."""

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Rows:
        """Embeddings (N, D) of pictures: float32 on the CPU, L2-normalized, without gradient.

        Args:
            images: N of them: paths, PIL images, or tensors (3, H, W) of uint8 or of floats in
                [0, 1]. They may differ in size and kind. A tensor (N, 3, H, W) is N pictures.
            batch_size: pictures in memory at a time.
        Raises:
            ValueError: there is none, one cannot be read, or the model has no image tower.

        Example:
            >>> import mmcompress as mmc
            >>> from PIL import Image
            >>> from mmcompress.runtime.dense import DenseModel
            >>> model = DenseModel(mmc.backbone("mini"))
            >>> found = model.embed_images([Image.new("RGB", (80, 60), "red")])
            >>> found.shape, round(found.norm().item(), 4)
            (torch.Size([1, 192]), 1.0)
        """
        return self._embed("image", images, batch_size)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Rows:
        """Embeddings (N, D) of texts: float32 on the CPU, L2-normalized, without gradient.

        Args:
            texts: N strings; what exceeds the model's context length is cut off.
            batch_size: texts in memory at a time.
        Raises:
            ValueError: there is none, one is no string, or the model has no text tower.
        """
        return self._embed("text", texts, batch_size)

    def embed_audio(self, sounds: Sequence[Any], *, batch_size: int = 32) -> Rows:
        """Embeddings (N, D) of sounds: float32 on the CPU, L2-normalized, without gradient.

        Args:
            sounds: N of them: paths, or pairs (samples, rate) of samples (n,) in [−1, 1], a tensor
                or an array, and their number per second. They are resampled to what the model
                hears, and cut to their middle where it hears less.
            batch_size: sounds in memory at a time.
        Raises:
            ValueError: there is none, one cannot be read, or the model has no audio tower.
        """
        return self._embed("audio", sounds, batch_size)

    @abstractmethod
    def _read(self, modality: str, value: Any) -> Any:
        """A picture or a sound as `_run` takes it, from a file or as it was given.

        Raises:
            ValueError: it is none, or cannot be read.
        """

    @abstractmethod
    def _run(self, modality: str, batch: list[Any]) -> Rows:
        """Embeddings (B, D) of what `_read` gave, and of texts.

        Raises:
            NotFiniteError: some are NaN or infinite.
        """

    def transcribe(
        self, sounds: Sequence[Any], *, batch_size: int = 8, max_tokens: int = 224
    ) -> list[str]:
        """What is said in each sound, by a speech-to-text model.

        Args:
            sounds: N of them: paths, or pairs (samples, rate), as `embed_audio` takes them. One
                that is longer than the model's window is cut where it is quietest.
            batch_size: sounds in memory at a time.
            max_tokens: of the text of one window.
        Raises:
            ValueError: there is none, one cannot be read, or the model writes no text.
        """
        self._check("audio", sounds, batch_size, method="transcribe")
        texts: list[str] = []
        starts = range(0, len(sounds), batch_size)
        for start in progress(starts, "transcribe", least=SHOWN_FROM):
            numbers = range(start, min(start + batch_size, len(sounds)))
            batch = [self._read_one("audio", number, sounds[number]) for number in numbers]
            texts += self._transcribed(batch, max_tokens)
        return texts

    def generate(
        self,
        images: Sequence[Any],
        prompt: str | Sequence[str] = "",
        *,
        batch_size: int = 8,
        max_tokens: int = 32,
    ) -> list[str]:
        """The answer to a question about each picture, by an image-text model that writes.

        Args:
            images: N of them, as `embed_images` takes them.
            prompt: the question about all of them, or N questions; empty for a caption, of a model
                that writes captions.
            batch_size: pictures in memory at a time.
            max_tokens: of an answer.
        Raises:
            ValueError: there is no picture, one cannot be read, there are not N questions, or the
                model writes no text.
        """
        self._check("image", images, batch_size, method="generate")
        prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(images):
            raise ValueError(
                f"there are {len(images)} images and {len(prompts)} prompts: give a prompt for "
                "each, or one text for all"
            )
        texts: list[str] = []
        starts = range(0, len(images), batch_size)
        for start in progress(starts, "generate", least=SHOWN_FROM):
            numbers = range(start, min(start + batch_size, len(images)))
            batch = [self._read_one("image", number, images[number]) for number in numbers]
            asked = [self._read_one("text", number, prompts[number]) for number in numbers]
            texts += self._answered(batch, asked, max_tokens)
        return texts

    def _answered(self, images: list[Any], prompts: list[str], max_tokens: int) -> list[str]:
        """The answers about a batch of what `_read` gave."""
        raise ValueError(
            "this model embeds and writes no text: load an image-text model that writes, with "
            "runtime=dense or runtime=packed"
        )

    def _transcribed(self, batch: list[Any], max_tokens: int) -> list[str]:
        """The texts of a batch of what `_read` gave."""
        raise ValueError(
            "this model embeds and writes no text: load a speech-to-text model, with "
            "runtime=dense or runtime=packed"
        )

    @abstractmethod
    def _joined(self, parts: list[Rows]) -> Rows:
        """The embeddings of all batches."""

    def _embed(self, modality: str, inputs: Sequence[Any], batch_size: int) -> Rows:
        self._check(modality, inputs, batch_size)
        starts = range(0, len(inputs), batch_size)
        parts = []
        for start in progress(starts, f"embed {NAMES[modality]}", least=SHOWN_FROM):
            numbers = range(start, min(start + batch_size, len(inputs)))
            batch = [self._read_one(modality, number, inputs[number]) for number in numbers]
            parts.append(self._run(modality, batch))
        return self._joined(parts)

    def _check(
        self, modality: str, inputs: Any, batch_size: int, *, method: str | None = None
    ) -> None:
        name = NAMES[modality]
        if modality not in self.modalities:
            raise ValueError(
                f"this model embeds {' and '.join(self.modalities)}, and no {modality}: load one "
                f"that has a tower for {name}"
            )
        if isinstance(inputs, str | Path | dict) or not hasattr(inputs, "__len__"):
            raise ValueError(
                f"{method or METHODS[modality]} takes a list and got a {type(inputs).__name__}: "
                "put it in [ ]"
            )
        if len(inputs) == 0:
            raise ValueError(f"there are no {name} to embed: give at least one")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")

    def _read_one(self, modality: str, number: int, value: Any) -> Any:
        """One input; what goes wrong with it says which of the list it is."""
        name = NAMES[modality]
        try:
            return _text(value) if modality == "text" else self._read(modality, value)
        except Unreadable as error:  # a file
            raise ValueError(
                f"{name}[{number}]={value}: {error}: repair the file or leave it out"
            ) from error
        except ValueError as error:
            raise ValueError(f"{name}[{number}]: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} is no text: give a string")
    check_characters(value, repr(value[:20]))
    return value
