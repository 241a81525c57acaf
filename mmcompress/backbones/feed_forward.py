"""MLPs whose two layers lie in the block itself: gathered into a module of their own.

So neurons can be taken out of them as out of any other. What the block computes stays the same, and
so do the names of the weights in the library's own files.
"""

from torch import Tensor, nn

from mmcompress.backbones.native import native_state


class FeedForward(nn.Module):
    """fc2(act(fc1(x))), in the place of `fc1`; the block goes on to call the other two by name."""

    def __init__(self, fc1: nn.Module, activation: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1, self.activation, self.fc2 = fc1, activation, fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))

    def native_state(self, path: str) -> dict[str, Tensor]:
        """Both layers lie beside each other in the block."""
        block, _, _ = path.rpartition(".")
        return native_state(self.fc1, f"{block}.fc1") | native_state(self.fc2, f"{block}.fc2")


def _same(x: Tensor) -> Tensor:
    return x


def gather_mlps(model: nn.Module) -> None:
    """Do so in every block, in place, where `fc1`, `activation_fn` and `fc2` follow one another.

    Raises:
        ValueError: dropout between them, which would be left out.
    """
    for block in list(model.modules()):
        if not {"fc1", "activation_fn", "fc2"} <= block._modules.keys():
            continue
        if getattr(block, "activation_dropout", 0.0):
            raise ValueError(
                f"activation_dropout={block.activation_dropout} is not supported: set it to 0 in "
                "config.json"
            )
        layers = [block.get_submodule(name) for name in ("fc1", "activation_fn", "fc2")]
        block.fc1 = FeedForward(*layers)
        # What stands in for the other two is no module, or the block would be an MLP itself.
        del block.activation_fn, block.fc2
        block.activation_fn = block.fc2 = _same  # type: ignore[assignment]
