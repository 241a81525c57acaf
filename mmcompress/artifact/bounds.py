"""A model that asks for more than its files explain (`format.bounds`) is refused while it is built.

A skeleton is first put together on the meta device, where tensors take no memory, and counted
meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mmcompress.format.bounds import most_places, most_values

UNSAVED = 2**24
"""Values of a tensor that no file holds, such as position ids or the tables of rotary embeddings,
however small the model is."""


@contextmanager
def counted(stored: int) -> Iterator["Counter"]:
    """Within it, what is built is counted, and refused once it is too much for `stored` bytes.

    Raises:
        ValueError: too many modules and parameters, or a tensor of too many values.
    """
    counter = Counter(most_values(stored), most_places(stored))
    hooks = [
        register_module_module_registration_hook(counter.count_place),
        register_module_parameter_registration_hook(counter.count_place),
    ]
    try:
        with counter:
            yield counter
    finally:
        for hook in hooks:
            hook.remove()


class Counter(TorchDispatchMode):
    """Sees every tensor before memory is taken for it.

    Args:
        values: most that a tensor may have.
        places: most modules and parameters.
    Attributes:
        largest: values of the largest tensor so far.
    """

    def __init__(self, values: int, places: int) -> None:
        super().__init__()
        self.values, self.places = values, places
        self.found, self.largest = 0, 0

    def count_place(self, owner: nn.Module, name: str, value: object) -> None:
        """Called for every module and parameter that a module takes over."""
        self.found += 1
        if self.found > self.places:
            raise ValueError(f"it has more than {self.places:,} modules and parameters")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _takes_memory(args, kwargs):
            # What no meta tensor can tell, such as `item`, makes no large tensor.
            with suppress(NotImplementedError, RuntimeError):
                self._count(func(*tree_map(_on_meta, args), **tree_map(_on_meta, kwargs)))
        found = func(*args, **kwargs)
        self._count(found)
        return found

    def _count(self, found: Any) -> None:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                # A stretched dimension (stride 0) repeats the same memory.
                sizes = zip(tensor.shape, tensor.stride(), strict=True)
                self.largest = max(self.largest, prod(n for n, step in sizes if step))
        if self.largest > self.values:
            raise ValueError(f"a tensor of it has {self.largest:,} values, more than are stored")


def check_unsaved(model: nn.Module, largest: int) -> None:
    """Refuse tensors that no file holds and that are much larger than those in the file.

    Args:
        model: on the meta device.
        largest: values of the largest tensor that was made while it was built.
    Raises:
        ValueError: there are some.
    """
    state = [tensor.numel() for tensor in model.state_dict().values()]
    most = max(UNSAVED, 4 * max(state, default=0))
    if largest > most:
        raise ValueError(
            f"a tensor of {largest:,} values is needed to build it, which none explains"
        )
    names = model.state_dict().keys()
    unsaved = sum(b.numel() for name, b in model.named_buffers() if name not in names)
    if unsaved > UNSAVED + sum(state):
        raise ValueError(f"{unsaved:,} values of its buffers are in no file")


def _takes_memory(args: Any, kwargs: Any) -> bool:
    """Whether an operation makes a tensor on a device that has memory."""
    if "device" in kwargs:
        return torch.device(kwargs["device"] or "cpu").type != "meta"
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    return not all(tensor.is_meta for tensor in tensors)


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
