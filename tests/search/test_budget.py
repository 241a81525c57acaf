"""The byte budget: measured choices, an exact knapsack, files that fit."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.lowrank.lowrank import LowRank
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.search.budget import Budget, solve
from mmcompress.search.groups import Group, find_groups, swapped
from mmcompress.search.proxy_loss import Yardstick


def batches(data: PairData) -> list[dict[str, torch.Tensor]]:
    return list(data.calibration_dataloader())


def stored(recipe: Recipe, backbone: HFClip, dense: HFClip, folder: Path) -> Artifact:
    return Artifact.save(
        folder,
        backbone,
        encodings=recipe.finalize(backbone),
        structure=recipe.structure(),
        reasons=recipe.reasons(),
        dense_bytes=dense_file_bytes(dense.model),
        dense_parameters=sum(p.numel() for p in dense.parameters()),
        dense_dtype=recipe.dense_dtype,
        run={"config_hash": "0" * 64, "recipe": "trial"},
    )


def test_the_solver_equals_trying_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = []
    for index in range(5):
        sizes = torch.randint(1, 100, (4,), generator=generator).tolist()
        losses = torch.rand(4, generator=generator).tolist()
        groups.append(Group(f"g{index}", "image", [], bytes=sizes, losses=losses))

    def total(picks: tuple[int, ...], what: str) -> float:
        return sum(getattr(g, what)[i] for g, i in zip(groups, picks, strict=True))

    for goal in (120, 200, 300):
        every = itertools.product(range(4), repeat=5)
        fits = [picks for picks in every if total(picks, "bytes") <= goal]
        best = min(fits, key=lambda picks: total(picks, "losses"))
        found = tuple(solve(groups, goal, goal))
        assert total(found, "bytes") <= goal
        assert total(found, "losses") == pytest.approx(total(best, "losses"))


def test_a_budget_that_nothing_fits_says_so() -> None:
    groups = [Group("a", "image", [], bytes=[100, 50], losses=[0.0, 1.0])]
    with pytest.raises(ValueError, match="smallest choices take 10 bytes more than the 90 allowed"):
        solve(groups, 40, 90)


@pytest.mark.parametrize(
    "steps",
    [
        {"int": lambda: Integer(bits=8)},
        {"two": lambda: Integer(bits=2), "four": lambda: Integer(bits=4)},
        {"lowrank": lambda: LowRank(rank_ratio=0.25), "int": lambda: Integer(bits=8)},
    ],
    ids=["ladder", "alternatives", "stack"],
)
def test_the_files_fit_and_reload(
    steps: dict[str, Any], tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path
) -> None:
    dense = copy.deepcopy(tiny_backbone)
    limit = dense_file_bytes(dense.model) // 4
    choices = [
        {"lowrank": {"rank_ratio": rank_ratio}, "int": {"bits": bits}}
        for rank_ratio, bits in [(0.25, 4), (0.5, 4), (0.5, 8)]
    ]
    budget = Budget(bytes=limit, choices=choices if "lowrank" in steps else None, pairs=16)
    recipe = Recipe({n: make() for n, make in steps.items()}, budget=budget)
    recipe.apply(tiny_backbone, batches(tiny_data))
    artifact = stored(recipe, tiny_backbone, dense, tmp_path / "a")
    assert 0.95 * limit < artifact.bytes <= limit
    chosen = {group.chosen for group in recipe.budget.groups}
    assert len(chosen) > 1, "one choice for all would need no budget"
    loaded = Artifact.load(tmp_path / "a").backbone.model.state_dict()
    for key, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.slow
def test_more_bytes_never_lose_more(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    losses = []
    for ratio in (3.5, 3.0, 2.5):
        budget = Budget(ratio=ratio, pairs=16)
        budget.search(Recipe({"int": Integer(bits=8)}), tiny_backbone, batches(tiny_data))
        losses.append(sum(group.losses[group.chosen] for group in budget.groups))
    assert losses == sorted(losses, reverse=True)


def test_choices_name_steps_of_the_recipe(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    recipe = Recipe(
        {"int": Integer(bits=8)}, budget=Budget(ratio=2, choices=[{"int4": {"bits": 4}}])
    )
    with pytest.raises(ValueError, match=r"choices names int4, and the recipe's steps are int"):
        recipe.apply(tiny_backbone, batches(tiny_data))


def test_only_the_given_choices_are_used(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    choices = [{"int": {"bits": 3}}, {"int": {"bits": 7}}]
    budget = Budget(ratio=3, choices=choices, pairs=16)
    recipe = Recipe({"int": Integer(bits=8)}, budget=budget)
    plan = recipe.apply(tiny_backbone, batches(tiny_data))
    assert budget.labels == ["dense", "int bits=3", "int bits=7"]
    decided = {d.get("bits", "dense") for d in plan["int"].values()}
    assert decided <= {3, 7, "dense"}
    left = [d[LEFT_DENSE] for d in plan["int"].values() if LEFT_DENSE in d]
    assert all(reason == "the budget chose otherwise" for reason in left)


def test_groups_are_the_outermost_modules(tiny_backbone: HFClip) -> None:
    recipe = Recipe({"lowrank": LowRank(rank_ratio=0.2), "int": Integer(bits=8)})
    names = [group.name for group in find_groups(recipe, tiny_backbone)]
    assert "vision_model.encoder.layers.0.mlp.fc1" in names
    assert len(names) == len(set(names))
    assert not any(a != b and b.startswith(f"{a}.") for a in names for b in names)


def test_swapping_leaves_no_trace(tiny_backbone: HFClip) -> None:
    probe, other = copy.deepcopy(tiny_backbone), copy.deepcopy(tiny_backbone)
    other.requires_grad_(False)
    for parameter in other.parameters():
        parameter.zero_()
    group = Group("text_projection", "text", ["proj"])
    with swapped(probe, other, group):
        assert not probe.model.text_projection.weight.any()
        assert probe.model.visual_projection.weight.any()
    for mine, dense in zip(probe.parameters(), tiny_backbone.parameters(), strict=True):
        assert torch.equal(mine, dense)


def test_an_unchanged_model_loses_nothing(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    yardstick = Yardstick(tiny_backbone, batches(tiny_data), 16)
    for modality in ("image", "text", "shared"):
        assert yardstick.loss(tiny_backbone, modality) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 2, "bytes": 10}, "set one, the other null"),
        ({"ratio": 0.5}, "must be at least 1"),
        ({"bytes": 0}, "bytes=0 must be at least 1"),
        ({"ratio": 2, "pairs": 1}, "pairs=1 must be at least 2"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**arguments)


def test_no_budget_is_no_budget() -> None:
    assert Recipe({"int": Integer(bits=8)}, budget=Budget()).budget is None


def test_a_plan_that_comes_out_too_large_again_is_not_the_last(
    tiny_backbone: HFClip, tiny_data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The goal moves on until the assignment changes, and no plan is stored twice."""
    budget = Budget(bytes=100, pairs=16)
    budget.limit = 100
    budget.groups = [Group("a", "image", [], bytes=[95, 50], losses=[0.0, 1.0])]
    stored_on_trial = []

    def trial(*arguments: Any) -> int:
        stored_on_trial.append(arguments[-1])
        return 101 if len(stored_on_trial) == 1 else 60

    monkeypatch.setattr(budget, "_trial", trial)
    monkeypatch.setattr("mmcompress.search.budget.bytes_outside", lambda *_: 0)
    recipe = Recipe({})
    budget._fit(recipe, tiny_backbone, [], [{}, {}], [{}, {}])
    assert budget.groups[0].chosen == 1
    assert len(stored_on_trial) == 2


def test_one_plan_that_is_too_large_does_not_end_the_search_for_a_fuller_one(
    tiny_backbone: HFClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(bytes=100, pairs=16)
    budget.limit = 100
    budget.groups = [Group("a", "image", [], bytes=[119, 110, 95], losses=[0.0, 1.0, 2.0])]
    stored = iter([80, 105, 99])  # of the third choice, the first, and the second
    monkeypatch.setattr(budget, "_trial", lambda *_: next(stored))
    monkeypatch.setattr("mmcompress.search.budget.bytes_outside", lambda *_: 0)
    budget._fit(Recipe({}), tiny_backbone, [], [{}] * 3, [{}] * 3)
    assert budget.groups[0].chosen == 1
