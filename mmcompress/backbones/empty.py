"""Building a model without its weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.initialization import no_init_weights


@contextmanager
def without_weights() -> Iterator[None]:
    """Within it, a parameter moves to the meta device as soon as a module takes it over.

    Buffers keep their values: those that no state dict holds, such as position ids, could not be
    had from anywhere else. (Under `torch.device("meta")` they are lost.) What it does to
    `nn.Module` for a while is the idea of `init_empty_weights` in Hugging Face's accelerate. No
    random numbers are drawn either.
    """
    register = nn.Module.register_parameter

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:  # one that is tied stays the same
            self._parameters[name] = nn.Parameter(param.to("meta"), param.requires_grad)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        with no_init_weights():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
