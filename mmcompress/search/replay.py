"""What the blocks of a dense model gave, so that a changed model runs only from the change on."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.modules.anatomy import find_stacks
from mmcompress.modules.replace import answering

HELD = 2**30
"""Bytes that the outputs may take; where all would take more, those of every second block are kept,
of every fourth, and so on."""


class Replay:
    """Outputs of a dense model's blocks on a few batches of one modality.

    A change inside a block leaves the blocks before it as they were. `skipping` lets these give
    what they gave before, bit for bit, and the tower's own code runs the others.

    Args:
        held: bytes that the outputs may take.
    """

    def __init__(self, *, held: int = HELD) -> None:
        self._held, self._used, self._stride = held, 0, 1
        self._outputs: dict[str, dict[int, list[Tensor]]] = {}
        """Path of a stack → index of a block → what it gave on each batch."""
        self._others: set[str] = set()
        """Stacks whose blocks are not called once each, one after another."""

    @contextmanager
    def recording(self, dense: Backbone, batch: int) -> Iterator[None]:
        """Keep what each block gives, while the dense model runs on a batch.

        Args:
            dense: in evaluation mode.
            batch: its number, from 0.
        """
        stacks = dict(find_stacks(dense.model))
        calls: dict[str, list[int]] = {path: [] for path in stacks}

        def keep(path: str, index: int, module: nn.Module, args: Any, output: Any) -> None:
            calls[path].append(index)
            if isinstance(output, Tensor) and (index + 1) % self._stride == 0:
                self._outputs.setdefault(path, {}).setdefault(index, []).append(output.clone())
                self._used += output.nbytes
                self._make_room()

        with ExitStack() as hooks:
            for path, stack in stacks.items():
                for index, block in enumerate(stack):
                    handle = block.register_forward_hook(partial(keep, path, index))
                    hooks.callback(handle.remove)
            yield
        for path, stack in stacks.items():
            if calls[path] != list(range(len(stack))):
                self._others.add(path)

    @contextmanager
    def skipping(self, backbone: Backbone, changed: str, batch: int) -> Iterator[None]:
        """Let the blocks before the changed one give what they gave on a batch.

        Args:
            backbone: as the dense model, except inside `changed`; in evaluation mode.
            changed: path of a module or parameter; where it lies in no block, all blocks run.
            batch: one that was recorded.
        """
        path, last = self._last_before(changed)
        if last is None:
            yield
            return
        output = self._outputs[path][last][batch]
        skipped = list(backbone.model.get_submodule(path).children())[: last + 1]
        # Only the last one's output is looked at, and what follows may write to it.
        with answering(skipped, lambda *_, **__: output.clone()):
            yield

    def _make_room(self) -> None:
        while self._used > self._held:
            self._stride *= 2
            for outputs in self._outputs.values():
                for index in [i for i in outputs if (i + 1) % self._stride]:
                    self._used -= sum(output.nbytes for output in outputs.pop(index))

    def _last_before(self, changed: str) -> tuple[str, int | None]:
        """The stack that a change lies in, and the last block before it whose outputs are kept."""
        for path in self._outputs.keys() - self._others:
            if changed.startswith(f"{path}."):
                block = int(changed.removeprefix(f"{path}.").partition(".")[0])
                kept = [index for index in self._outputs[path] if index < block]
                return path, max(kept, default=None)
        return "", None
