"""What a generative model is asked, and what counts as right."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Waveform:
    """Sound of one channel.

    Attributes:
        samples: (n,), float32 in [−1, 1].
        rate: samples per second.
    """

    samples: Tensor
    rate: int


Turn = tuple[str, str]
"""Who speaks, `system`, `user` or `assistant`, and the text."""


@dataclass(frozen=True)
class Example:
    """One task for a `Generator`.

    Attributes:
        prompt: a question, which may be empty where image or sound say what is wanted; or a
            conversation, whose last turn is the user's.
        answers: the texts that count as right, of which the first is trained on; none where the
            model is only asked.
        images: PIL images, in the order in which the prompt means them; they stand in the first
            turn of the user.
        sound: to be heard before the prompt; at any sampling rate.
        kind: of question, for scores of each kind.
    """

    prompt: str | tuple[Turn, ...] = ""
    answers: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    sound: Waveform | None = None
    kind: str = ""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The prompt as a conversation."""
        return (("user", self.prompt),) if isinstance(self.prompt, str) else self.prompt

    @property
    def first_answer(self) -> str:
        """What is trained on.

        Raises:
            ValueError: there is no answer.
        """
        if not self.answers:
            raise ValueError(
                f"the example {str(self.prompt)[:60]!r} has no answer to learn or to be scored by: "
                "give one, or remove it"
            )
        return self.answers[0]
