"""Hold a method of your own to what every method of mmcompress promises."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import Step, StructureStep, ValueStep
from mmcompress.testing.contract import Broken, Contract, Refused, build_recipe, promise
from mmcompress.testing.holding import contract

MODELS = ("hf/clip", "open_clip/vit", "custom")
"""Families of small models: two of transformers and open_clip, and plain convolutions."""

STEPS = 10
"""Of training, in which the loss must fall below its start."""


def check_method(
    method: Step | Recipe | Mapping[str, Any] | DictConfig | str,
    *,
    models: Sequence[str] = MODELS,
    smaller: bool = True,
) -> dict[str, str]:
    """Model → why the method refuses it, in one sentence; empty where all promises are kept.

    On each of several small models it plans, is applied, trains, is stored and is loaded. It works
    in a test function as it does without pytest.

    Args:
        method: a step, a `Recipe`, the config of one (`{"_target_": …}`), or the name of a file in
            `conf/compression/`.
        models: names of `mmcompress.testing.zoo.families.FAMILIES`.
        smaller: False for a method that stores nothing smaller by itself.
    Raises:
        AssertionError: one sentence: which promise is broken, by what, on which model.

    Example:
        >>> from mmcompress.compression.quantization.integer import Integer
        >>> check_method(Integer(bits=4), models=["hf/clip"])
        {'hf/clip': ''}
    """
    make = _maker(method)
    title = "+".join(f"{type(step).__name__}" for step in make().steps.values()) or "the recipe"
    found = {}
    for model in models:
        try:
            found[model] = _held(make, contract(model), smaller=smaller)
        except Broken as error:
            raise Broken(f"{title} on {model}: {error}") from error
    if all(found.values()):
        reasons = "; ".join(f"{model}: {reason}" for model, reason in found.items())
        raise Broken(f"{title}: broken promise: it applies to some model ({reasons})")
    return found


def _maker(
    method: Step | Recipe | Mapping[str, Any] | DictConfig | str,
) -> Callable[[], Recipe]:
    """Gives the recipe anew each time: what one use leaves in a step is not there in the next."""
    if isinstance(method, str):
        name = method
        return lambda: build_recipe(name)
    made = instantiate(method) if isinstance(method, Mapping | DictConfig) else method
    steps = made.steps if isinstance(made, Recipe) else {"method": made}
    return lambda: Recipe(copy.deepcopy(dict(steps)), dense_dtype="float32")


def _held(make: Callable[[], Recipe], model: Contract, *, smaller: bool) -> str:
    """Why the recipe refuses the model; empty when it keeps every promise."""
    for step in make().steps.values():
        _check_arguments(step)
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.hold(make, Path(folder) / "artifact", smaller=smaller)
        except Refused as refusal:
            reason = str(refusal)
        else:
            reason = ""
    if reason:
        with promise("a method refuses a model in one sentence"):
            assert "\n" not in reason, reason
        return reason
    _check_apply(make(), model)
    _check_learns(make(), model)
    for name, step in make().steps.items():
        _check_selectors(name, step, model)
        if isinstance(step, ValueStep) and step.keeps_zeros:
            _check_zeros(step, model)
    return ""


def _check_arguments(step: Step) -> None:
    with promise("a step keeps every argument under its own name, so that it can be made anew"):
        try:
            again = step.varied()
        except (AttributeError, TypeError) as error:
            raise AssertionError(str(error)) from error
        assert vars(again).keys() == vars(step).keys(), "another has other attributes"


def _check_apply(recipe: Recipe, model: Contract) -> None:
    """Of one step, for those before it change what it sees."""
    if len(recipe.steps) != 1:
        return
    (step,) = recipe.steps.values()
    if isinstance(step, StructureStep):
        return  # it may take the module apart that it replaces
    plan = next(iter(recipe.apply(copy.deepcopy(model.dense), [model.batch]).plan.values()))
    dense = copy.deepcopy(model.dense)
    before = _state(dense)
    targets = {target.name: target for target in dense.targets()}
    for name, decision in plan.items():
        if LEFT_DENSE in decision:
            continue
        module = dense.model.get_submodule(targets[name].module)
        first, second = (step.apply(module, targets[name].parameter, decision) for _ in range(2))
        with promise("apply depends on nothing but its arguments"):
            one, two = first.state_dict(), second.state_dict()
            assert one.keys() == two.keys(), f"for {name} it gives other tensors the second time"
            for key in one:
                assert torch.equal(one[key], two[key]), f"{name}: {key} differs the second time"
    with promise("apply leaves the model as it is, and gives back what goes into it"):
        _assert_same(before, _state(dense))


def _check_learns(recipe: Recipe, model: Contract) -> None:
    backbone = copy.deepcopy(model.dense)
    compressed = recipe.apply(backbone, [model.batch])
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    if not trained:
        return
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    compressed.on_step(0.0)
    losses = []
    backbone.train()
    for _ in range(STEPS):
        loss = backbone.loss(model.batch) + compressed.penalty()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    backbone.eval()
    with promise(f"{STEPS} steps of training lower the loss"):
        assert min(losses[1:]) < losses[0], f"it is {losses[0]:.4f} and stays above that"


def _check_selectors(name: str, step: Step, model: Contract) -> None:
    """A tower that `modality` does not name stays as it is; a name that there is not is refused."""
    before = _state(model.dense)
    for chosen in model.dense.modalities:
        backbone = copy.deepcopy(model.dense)
        try:
            recipe = Recipe({name: step.varied(modality=chosen)}, dense_dtype="float32")
            recipe.apply(backbone, [model.batch]).finalize()
        except ValueError:
            continue  # nothing in that tower suits the method
        after = _state(backbone)
        with promise(f"with modality={chosen} other towers stay as they are"):
            others = {key for key in before if backbone.modality_of(key) != chosen}
            _assert_same({key: before[key] for key in others}, after)
    with promise("a selector that matches nothing is refused"):
        try:
            step.varied(role="no.such.role").select(step.candidates(model.dense))
        except ValueError:
            return
        raise AssertionError("role=no.such.role is taken")


def _check_zeros(step: Step, model: Contract) -> None:
    backbone = copy.deepcopy(model.dense)
    mask = Magnitude(sparsity=0.5, modality=step.modality, role=step.role)
    try:
        compressed = Recipe({"mask": mask, "method": step}, dense_dtype="float32").apply(
            backbone, [model.batch]
        )
    except ValueError:
        return  # it says why it does not go with a mask
    zeros = {
        name: applied.module.parametrizations[applied.parameter][0].mask.clone().logical_not()  # type: ignore[index,union-attr]
        for name, applied in compressed.applied["mask"].items()
        if name in compressed.applied["method"]
    }
    compressed.finalize()
    after = _state(backbone)
    with promise("zeros that pruning leaves stay zero (or set keeps_zeros = False)"):
        for name, gone in zeros.items():
            assert not after[name][gone.view_as(after[name])].any(), f"not in {name}"


def _state(backbone: Backbone) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}


def _assert_same(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for key, tensor in wanted.items():
        assert key in found, f"{key} is gone"
        assert torch.equal(found[key], tensor), f"{key} has changed"
