"""Hold a backbone of your own to what every backbone of mmcompress promises."""

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmcompress.backbones.adapters import ADAPTERS
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, Generator
from mmcompress.backbones.card import parts_of
from mmcompress.backbones.passes import LABELS, TOKEN_KIND
from mmcompress.functional.tokens import IGNORED, PADDING
from mmcompress.testing.contract import Broken, Contract, Refused, promise
from mmcompress.testing.zoo.family import examples_for

RECIPES = ("gptq", "magnitude", "lowrank", "cluster")
"""Quantized, pruned, low-rank and shared."""

LEAST = 0.95
"""Share of the parameters that must be targets."""

SHARED = "shared"
"""What belongs to no part, such as a temperature."""


def check_backbone(backbone: Backbone, *, recipes: Sequence[str] = RECIPES) -> dict[str, str]:
    """Recipe → why it refuses the model, in one sentence; empty where all promises are kept.

    Looks at how the model prepares and embeds its inputs and at what it offers to compress; then
    each recipe is held to its promises on it. It works in a test function as it does without
    pytest.

    Args:
        backbone: dense, in float32; it stays as it is. A small one makes it quick.
        recipes: names of files in `conf/compression/`.
    Raises:
        AssertionError: one sentence: which promise is broken, and where.

    Example:
        >>> from mmcompress.testing.zoo.hf import build_clip
        >>> check_backbone(build_clip(), recipes=["magnitude"])
        {'magnitude': ''}
    """
    try:
        return _held(copy.deepcopy(backbone).eval(), recipes)
    except Broken as error:
        raise Broken(f"{type(backbone).__name__}: {error}") from error


def _held(dense: Backbone, recipes: Sequence[str]) -> dict[str, str]:
    with promise("it embeds its inputs or writes answers (mmcompress.backbones.capabilities)"):
        assert isinstance(dense, Encoder | Generator)
    with promise("`adapter` is `custom`, or names a class that artifacts may name"):
        assert dense.adapter in ADAPTERS, f"it is {dense.adapter!r}"
    with promise("it has modalities, each of them image, text or audio"):
        assert dense.modalities
        assert set(dense.modalities) <= {"image", "text", "audio"}, f"{dense.modalities}"
    contract = Contract(dense)
    if isinstance(dense, Encoder):
        _check_embeddings(dense, contract.batch)
    if isinstance(dense, Generator) and dense.reads_examples:
        _check_answers(dense)
    _check_targets(dense)
    _check_spec(dense)
    _check_loss(dense, contract.batch)
    found = {}
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as folder:
            try:
                contract.check(recipe, Path(folder) / "artifact")
                found[recipe] = ""
            except Refused as refusal:
                found[recipe] = str(refusal)
            except Broken as error:
                raise Broken(f"with compression={recipe}: {error}") from error
    return found


@torch.no_grad()
def _check_embeddings(dense: Encoder, batch: dict[str, Tensor]) -> None:
    widths = {}
    for modality in dense.modalities:
        with promise(f"encode_{modality} gives one finite row (D,) for each input"):
            rows = dense.encode(modality, batch[modality])
            assert rows.ndim == 2, f"the shape is {tuple(rows.shape)}"
            assert len(rows) == len(batch[modality]), f"{len(rows)} for {len(batch[modality])}"
            assert rows.isfinite().all(), "NaN or infinite"
        widths[modality] = rows.shape[1]
        with promise(f"encode_{modality} gives the same again in evaluation mode"):
            assert torch.equal(dense.encode(modality, batch[modality]), rows)
        with promise(f"an embedding of {modality} does not depend on the rest of its batch"):
            alone = dense.encode(modality, batch[modality][:2])
            torch.testing.assert_close(alone, rows[:2], rtol=1e-3, atol=1e-4)
        with promise(f"valid_tokens of {modality} is None or a bool for each token"):
            valid = dense.valid_tokens(modality, batch[modality])
            assert valid is None or valid.dtype == torch.bool, "it holds no bools"
            assert valid is None or len(valid) == len(rows), f"the shape is {tuple(valid.shape)}"
    with promise("all modalities are embedded in one space"):
        assert len(set(widths.values())) == 1, f"widths {widths}"
    with promise("logit_scale is a positive scalar"):
        assert dense.logit_scale.ndim == 0, f"its shape is {tuple(dense.logit_scale.shape)}"
        assert dense.logit_scale > 0


@torch.no_grad()
def _check_answers(dense: Generator) -> None:
    examples = examples_for(dense, 3)
    examples[0] = replace(examples[0], answers=("a much longer answer than the others",))
    batch = dense.prepare(examples)
    with promise("answer_logits gives finite logits (B, T, V) and as many tokens (B, T)"):
        logits, targets = dense.answer_logits(batch)
        assert logits.shape[:2] == targets.shape, f"{tuple(logits.shape)}, {tuple(targets.shape)}"
        assert logits.isfinite().all(), "NaN or infinite"
        assert (targets != IGNORED).any(dim=1).all(), "no token of an answer"
    with promise("prepare says of each token what it stands for, and of padding that it is some"):
        kinds = batch[TOKEN_KIND]
        assert kinds.shape == batch[LABELS].shape, f"{tuple(kinds.shape)}"
        assert ((kinds == PADDING) <= (batch[LABELS] == IGNORED)).all(), "an answer is padding"
    with promise("what is expected of an answer does not depend on the rest of its batch"):
        for place in range(len(examples)):
            alone, wanted = dense.answer_logits(dense.prepare([examples[place]]))
            torch.testing.assert_close(
                logits[place][targets[place] != IGNORED],
                alone[0][wanted[0] != IGNORED],
                rtol=1e-3,
                atol=1e-4,
            )
    with promise("generate gives a text for each example, the same alone as in a batch"):
        texts = dense.generate(examples, max_tokens=4)
        assert len(texts) == len(examples)
        assert texts == [dense.generate([example], max_tokens=4)[0] for example in examples]


def _check_targets(dense: Backbone) -> None:
    parameters = dict(dense.model.named_parameters())
    everywhere = dict(dense.model.named_parameters(remove_duplicate=False))
    targets = dense.targets()
    with promise("a target's name is that of a parameter"):
        unknown = [target.name for target in targets if target.name not in everywhere]
        assert not unknown, ", ".join(unknown[:3])
    with promise("a target lies in a tower of the model, or is shared"):
        strange = [t.name for t in targets if t.modality not in (*dense.modalities, "shared")]
        assert not strange, ", ".join(strange[:3])
    with promise("each tower has targets"):
        empty = {*dense.modalities} - {target.modality for target in targets}
        assert not empty, f"none in {', '.join(sorted(empty))}: see tower_prefixes"
    with promise("each parameter is a target, or `remainder` says why not"):
        named = {target.name for target in targets} | dense.remainder().keys()
        missing = parameters.keys() - named
        assert not missing, ", ".join(sorted(missing)[:3])
    with promise(f"at least {LEAST:.0%} of the parameters are targets"):
        total = sum(parameter.numel() for parameter in parameters.values())
        reached = {t.name for t in targets} & parameters.keys()
        share = sum(parameters[name].numel() for name in reached) / total
        without = {n: why for n, why in dense.remainder().items() if n in parameters}
        largest = sorted(without, key=lambda name: -parameters[name].numel())[:3]
        left = ", ".join(f"{name}: {without[name]}" for name in largest)
        assert share >= LEAST, f"{share:.1%} are; name the others in `roles`: {left}"
    with promise(f"at least {LEAST:.0%} of the parameters of each part are targets"):
        for part, row in parts_of(dense).items():
            why = ", ".join(f"{reason} {count:,}" for reason, count in row.left.items())
            share = row.targets / row.parameters
            assert share >= LEAST or part == SHARED, f"{share:.1%} of {part} are: {why}"


def _check_spec(dense: Backbone) -> None:
    with promise("spec is JSON"):
        try:
            spec = json.loads(json.dumps(dense.spec, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        with promise("save_assets gives the names of the files that it writes"):
            names = dense.save_assets(Path(folder))
            assert {*names} == {path.name for path in Path(folder).iterdir()}, f"it gives {names}"
        if dense.adapter == "custom":  # what the user gives builds it, and not a spec
            return
        with promise("from_spec builds the same model without weights"):
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                empty = type(dense).from_spec(spec, assets=Path(folder))
            wanted = {key: tensor.shape for key, tensor in dense.model.state_dict().items()}
            found = {key: tensor.shape for key, tensor in empty.model.state_dict().items()}
            assert found == wanted, "its tensors have other names or shapes"


def _check_loss(dense: Backbone, batch: dict[str, Tensor]) -> None:
    if len(dense.modalities) != 2:
        return
    with promise("its loss is a finite scalar with a gradient"):
        loss = dense.loss(batch)
        assert loss.ndim == 0, f"its shape is {tuple(loss.shape)}"
        assert loss.isfinite(), f"it is {loss.item()}"
        assert loss.requires_grad
