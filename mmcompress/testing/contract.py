"""What every recipe promises on every model: from the dense weights to the reloaded artifact."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils import parametrize

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Generator, encoder
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import CutsWhenBaked
from mmcompress.config.compose import compose_config
from mmcompress.system.locations import project_path
from mmcompress.testing.zoo.family import batch_of, randomized, seeded

Batch = dict[str, Tensor]

RECIPES = sorted(path.stem for path in (project_path("conf") / "compression").glob("*.yaml"))

# Small layers are 32 wide, and there are two blocks in a tower: groups, codebooks and what is
# removed must fit them.
SMALL = {
    "awq": ["compression.steps.awq.group_size=32"],
    "binary": ["compression.steps.binary.group_size=32"],
    "blocks": ["compression.steps.blocks.pruning_ratio=0.5"],
    "gptq": ["compression.steps.gptq.group_size=32"],
    "hqq": ["compression.steps.hqq.group_size=32"],
    "int4": ["compression.steps.int4.group_size=32"],
    "lsq": ["compression.steps.lsq.group_size=32"],
    "magnitude_int4": ["compression.steps.int4.group_size=32"],
    "minivit_int4": ["compression.steps.int4.group_size=32"],
    "qwt_int4": ["compression.steps.int4.group_size=32"],
    "sharing": ["compression.steps.sharing.clusters=16"],
    "ternary": ["compression.steps.ternary.group_size=32"],
    "vq": ["compression.steps.vq.clusters=16"],
}

SAME_SIZE = {"none", "activations", "qwt"}
"""They compute something and store nothing smaller."""


STEP = 1e-3
"""How far a step moves the parameter of a tensor that moves farthest."""


class Refused(ValueError):
    """The recipe says in one sentence why it does not apply to the model."""


class Broken(AssertionError):
    """A promise is not kept; the message is one sentence that says which, and where."""


@contextmanager
def promise(text: str) -> Iterator[None]:
    """What is asserted inside, by its words.

    Example:
        >>> with promise("a plan is JSON"):
        ...     assert 1 == 2, "it holds a set"
        Traceback (most recent call last):
        mmcompress.testing.contract.Broken: broken promise: a plan is JSON (it holds a set)
    """
    try:
        yield
    except Broken:
        raise
    except AssertionError as error:
        detail = " ".join(str(error).split("\n\n")[0].split())
        raise Broken(f"broken promise: {text}" + (f" ({detail})" if detail else "")) from error


@cache
def _config(name: str, *overrides: str) -> DictConfig:
    return compose_config(f"compression={name}", *SMALL.get(name, []), *overrides).compression


def build_recipe(name: str, *overrides: str, dense_dtype: str | None = "float32") -> Recipe:
    """A recipe of `conf/compression/`, with settings that suit small layers.

    Args:
        dense_dtype: float32, so that storing what is left dense rounds nothing and comparisons can
            be exact; None for the recipe's own.
    """
    exact = [] if dense_dtype is None else [f"compression.dense_dtype={dense_dtype}"]
    return instantiate(_config(name, *exact, *overrides))


class Contract:
    """One dense model, to hold recipes against."""

    def __init__(self, dense: Backbone) -> None:
        self.dense, self.batch = dense, batch_of(dense)

    def check(self, name: str, folder: Path) -> set[str]:
        """Hold a recipe of `conf/compression/` to every promise; see `hold`."""
        return self.hold(partial(build_recipe, name), folder, smaller=name not in SAME_SIZE)

    def hold(self, make: Callable[[], Recipe], folder: Path, *, smaller: bool = True) -> set[str]:
        """Compress, train, bake, save, load: no promise is broken on the way.

        Args:
            make: gives the recipe anew, with `dense_dtype="float32"`.
            folder: to create; takes the artifact.
            smaller: whether it stores less than the dense model.
        Returns:
            The towers of which some step compresses nothing.
        Raises:
            Refused: the recipe does not apply.
            Broken: a promise is not kept.
        """
        backbone, recipe = copy.deepcopy(self.dense), make()
        try:
            compressed = recipe.apply(backbone, [self.batch])
        except ValueError as error:
            raise Refused(str(error)) from error
        self._check_plan(make, compressed)
        self._train(compressed)
        trained = outputs(backbone, self.batch)
        compressed.finalize()
        cut = any(isinstance(step, CutsWhenBaked) for step in recipe.steps.values())
        # What is cut is gone from float32 sums, which then add up in another order.
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if cut else {"rtol": 0, "atol": 0}
        with promise("the model computes after baking what it computed in training"):
            torch.testing.assert_close(outputs(backbone, self.batch), trained, **tolerance)
        saved = compressed.save(folder, run={"config_hash": "", "recipe": "+".join(recipe.steps)})
        loaded = Artifact.load(folder, skeleton=lambda: copy.deepcopy(self.dense))
        self._check_loaded(saved, loaded, smaller=smaller)
        return {tower for towers in compressed.untouched.values() for tower in towers}

    def _check_plan(self, make: Callable[[], Recipe], compressed: Compressed) -> None:
        """The same seed gives it and its weights again, a resumed run gets its shapes from it."""
        backbone, plan = compressed.backbone, compressed.plan
        again, state = copy.deepcopy(self.dense), backbone.state_dict()
        with promise("a plan is JSON: dicts with keys of text, lists, numbers, texts, true, null"):
            try:
                stored = json.loads(json.dumps(plan, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise AssertionError(str(error)) from error
            assert stored == plan, "it reads back as something else"
        with promise("the same data give the same plan"):
            assert make().apply(again, [self.batch]).plan == plan
        with promise("the same data give the same weights"):
            found = again.state_dict()
            assert found.keys() == state.keys()
            for key, tensor in state.items():
                assert torch.equal(found[key], tensor), f"{key} comes out otherwise"
        restored = copy.deepcopy(self.dense)
        with seeded(1):  # nothing may be left of the weights that were there
            randomized(restored.model)
        with promise("a run is resumed from its plan and its checkpoint alone"):
            resumed = make().restore(restored, stored)
            assert restored.state_dict().keys() == state.keys(), "other tensors"
            restored.load_state_dict(state)
            assert_equal(restored, backbone, self.batch)
            assert resumed.coverage == compressed.coverage, "another coverage"

    def _train(self, compressed: Compressed) -> None:
        """Two small steps: gradients are finite and reach all that the dense model would train.

        In the first, a scale may still be the best one, and its gradient zero.
        """
        parameters = dict(compressed.backbone.named_parameters())
        missed = {name for name, p in parameters.items() if p.requires_grad}
        for _ in range(2):
            for name, gradient in gradients(compressed, self.batch).items():
                if gradient is not None:
                    with promise("gradients are finite"):
                        assert gradient.isfinite().all(), f"that of {name} is not"
                    largest = gradient.abs().max().clamp(min=torch.finfo().tiny)
                    parameters[name].data -= STEP * gradient / largest
                    missed -= {name} if gradient.any() else set()
        missed = {name for name in missed if self._is_trained(name)}
        with promise("a gradient reaches every parameter that the dense model trains"):
            assert not missed, f"none reaches {', '.join(sorted(missed)[:3])}"
        compressed.on_step(1.0)

    @cached_property
    def _dense_gradients(self) -> dict[str, bool]:
        """Which parameters a gradient reaches in the dense model."""
        found = gradients(Recipe().restore(copy.deepcopy(self.dense), {}), self.batch)
        return {name: g is not None and bool(g.any()) for name, g in found.items()}

    def _is_trained(self, name: str) -> bool:
        """Whether the dense model trains this parameter, or the layer in whose place it is."""
        found = self._dense_gradients
        while name not in found and name:
            name, _, _ = name.rpartition(".")
            inside = [reached for key, reached in found.items() if key.startswith(f"{name}.")]
            if inside:
                return any(inside)
        return found[name]

    def _check_loaded(self, saved: Artifact, loaded: Artifact, *, smaller: bool) -> None:
        """Bit for bit what was saved, its inputs too; smaller; every byte is accounted for."""
        again = batch_of(loaded.backbone)
        with promise("a loaded model prepares its inputs as the dense one did"):
            assert again.keys() == self.batch.keys()
            assert all(torch.equal(again[key], self.batch[key]) for key in again), "others come out"
        with promise("what is loaded is what was saved, bit for bit"):
            state = loaded.backbone.model.state_dict()
            for key, tensor in saved.backbone.model.state_dict().items():
                assert torch.equal(state[key], tensor), f"{key} differs"
            assert_equal(loaded.backbone, saved.backbone, self.batch)
        rows = loaded.ledger()
        with promise("the ledger accounts for every byte"):
            assert sum(row.bytes for row in rows) == saved.bytes
        if smaller:
            # The manifest is large beside a small model.
            stored = sum(r.bytes for r in rows if r.payload not in ("header", "manifest"))
            with promise("what is stored takes fewer bytes than the dense weights"):
                assert stored < sum(p.nbytes for p in self.dense.parameters()), f"{stored} bytes"


@contextmanager
def _frozen(backbone: Backbone, frozen: bool) -> Iterator[None]:
    """No parameter needs a gradient: torch multiplies by another kernel where one does.

    What a parametrization gives needs none while gradients are off, and a baked weight would.
    """
    trained = [p for p in backbone.parameters() if p.requires_grad] if frozen else []
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def outputs(backbone: Backbone, batch: Batch, *, grad: bool = False) -> list[Tensor]:
    """All that the model computes: embeddings, and what lies behind the towers."""
    with torch.set_grad_enabled(grad), _frozen(backbone, not grad), parametrize.cached():
        if isinstance(backbone, Generator) and backbone.reads_examples:
            return [one.run(batch) for one in backbone.passes()]
        model = encoder(backbone, "the contract compares", "inherit from Encoder or Generator")
        found = [model.encode(m, batch[m]) for m in model.modalities]
        return found + [one.run(batch) for one in model.passes() if one.repeats]


def assert_equal(found: Backbone, wanted: Backbone, batch: Batch) -> None:
    for mine, other in zip(outputs(found, batch), outputs(wanted, batch), strict=True):
        assert torch.equal(mine, other), "the outputs differ"


def gradients(compressed: Compressed, batch: Batch) -> dict[str, Tensor | None]:
    """Of some scalar that hangs on every output; None for what no gradient reaches."""
    backbone = compressed.backbone.train()
    compressed.on_step(0.0)
    trained = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(0)
    loss = torch.as_tensor(compressed.penalty())
    for output in outputs(backbone, batch, grad=True):
        loss = loss + (output * torch.randn(output.shape, generator=generator)).sum()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    backbone.eval()
    return dict(zip(trained, found, strict=True))
