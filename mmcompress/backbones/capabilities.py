"""What a backbone can do: embed its inputs, write answers, tell classes apart.

Each capability is a class with methods of its own, and a backbone inherits those that it has. Who
needs one asks for it (`dual_encoder(backbone, …)`), which says in one sentence what is missing.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.examples import Example
from mmcompress.backbones.passes import Batch, Pass
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.functional.tokens import IGNORED


class Encoder(Backbone):
    """Embeds each of its modalities; two of them make it a dual encoder.

    A subclass implements `encode_image`, `encode_text`, `encode_audio` for its modalities: batch →
    (B, D). `encode` calls them by name.
    """

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities, already exponentiated: a scalar."""

    def encode(self, modality: str, inputs: Tensor) -> Tensor:
        """Embeddings (B, D), L2-normalized, of a batch of one modality.

        Raises:
            ValueError: another modality, or ids that the model has no embedding for.
        """
        if modality not in self.modalities:
            raise ValueError(
                f"{type(self).__name__} has no modality {modality!r}; it has {self.modalities}"
            )
        try:
            return F.normalize(getattr(self, f"encode_{modality}")(inputs), dim=-1)
        except IndexError as error:  # of a table of embeddings
            raise ValueError(
                f"the {modality} inputs hold ids up to {inputs.max().item()}, for which "
                f"{type(self).__name__} has no embedding: use its own tokenize"
            ) from error

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        """Which tokens (B, L) of a batch are content and not padding; None when all are."""
        return None

    def loss(self, batch: Batch) -> Tensor:
        """The contrastive loss of pairs, a scalar.

        Raises:
            ValueError: there is one modality alone.
        """
        pair = dual_encoder(
            self, "this needs a loss on", "choose a recipe that looks at weights or activations"
        )
        first, second = (pair.encode(m, batch[m]) for m in pair.modalities)
        return contrastive_loss(first, second, pair.logit_scale.detach(), batch.get("concept"))

    def passes(self) -> list[Pass]:
        """One for each tower. What belongs to none may run in any of them."""
        return [self.tower_pass(modality, "shared") for modality in sorted(self.modalities)]

    def tower_pass(self, modality: str, *others: str, timed: bool = True) -> Pass:
        """The pass of one tower.

        Args:
            others: modalities of further targets that it shows.
        """

        def valid(batch: Batch) -> Tensor | None:
            return self.valid_tokens(modality, batch[modality])

        def run(batch: Batch) -> Tensor:
            return self.encode(modality, batch[modality])

        return Pass(modality, run, (modality, *others), valid, timed=timed)


class Generator(Backbone):
    """Writes a text about images, a sound, or a text.

    Attributes:
        mixes_modalities: whether tokens of several kinds stand in one sequence, so that `prepare`
            gives `token_kind`.
    """

    mixes_modalities: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, examples: Sequence[Example], *, answers: bool = True) -> Batch:
        """What the model reads of examples, padded, as the library's own processor makes it.

        Beside the processor's keys there are `token_kind` (B, L), of each token of the sequence
        `PADDING`, `TEXT`, `IMAGE` or `AUDIO` (`mmcompress.functional.tokens`), and `labels` (B, L),
        the tokens of the answers, `IGNORED` elsewhere. What has only one kind of tokens may leave
        both out.

        Args:
            examples: what is asked.
            answers: whether the first answer of each follows its prompt; else there are no labels,
                and the model may go on from the last token.
        Raises:
            ValueError: an example has no answer and one is wanted, has an image or a sound that
                the model does not take, or is longer than the model's context.
        """

    @abstractmethod
    def answer_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the model expects of the answers' tokens, and what they are.

        Args:
            batch: of `prepare`.
        Returns:
            Logits (B, T, V) for each token that is predicted, and the tokens (B, T) int64,
            `IGNORED` where no answer stands.
        """

    @abstractmethod
    def generate(self, examples: Sequence[Example], *, max_tokens: int = 32) -> list[str]:
        """An answer to each example, the most probable token at each place.

        Args:
            examples: what is asked; their answers are not looked at.
            max_tokens: that an answer has at most.
        """

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross entropy of the answers' tokens, a scalar."""
        logits, targets = self.answer_logits(batch)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


class Classifier(Backbone):
    """Tells classes of inputs of one modality apart."""

    @abstractmethod
    def class_logits(self, inputs: Tensor) -> Tensor:
        """(B, classes)."""

    def loss(self, batch: Batch) -> Tensor:
        """Cross entropy of the labels, a scalar."""
        (modality,) = self.modalities
        return F.cross_entropy(self.class_logits(batch[modality]), batch["label"])


def encoder(backbone: object, asks: str, fix: str) -> Encoder:
    """The backbone, once it is known to embed its inputs.

    Args:
        asks: who needs it, as the message begins: "retrieval needs".
        fix: what else to do.
    Raises:
        ValueError: it embeds nothing.
    """
    if not isinstance(backbone, Encoder):
        raise ValueError(f"{asks} embeddings and {_name(backbone)} gives none: {fix}")
    return backbone


def dual_encoder(backbone: object, asks: str, fix: str) -> Encoder:
    """The backbone, once it is known to embed pairs of two modalities; see `encoder`.

    Raises:
        ValueError: it does not.
    """
    found = encoder(backbone, asks, fix)
    if len(found.modalities) != 2:
        raise ValueError(
            f"{asks} pairs of two modalities and {_name(backbone)} has "
            f"{', '.join(found.modalities)} alone: {fix}"
        )
    return found


def generator(backbone: object, asks: str, fix: str) -> Generator:
    """The backbone, once it is known to write texts; see `encoder`.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(backbone, Generator):
        raise ValueError(f"{asks} a generative model and {_name(backbone)} is none: {fix}")
    return backbone


def classifier(backbone: object, asks: str, fix: str) -> Classifier:
    """The backbone, once it is known to tell classes apart; see `encoder`.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(backbone, Classifier) or len(backbone.modalities) != 1:
        raise ValueError(f"{asks} a classifier and {_name(backbone)} is none: {fix}")
    return backbone


def _name(backbone: object) -> str:
    return type(backbone).__name__
