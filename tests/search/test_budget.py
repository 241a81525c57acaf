"""The byte budget: measured choices, an exact knapsack, files that fit."""

import copy
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.calibration import collect
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.magnitude import Magnitude
from mmcompress.compression.pruning.upop import UPop
from mmcompress.compression.quantization.entropy import Entropy
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import Statistic
from mmcompress.data.base import PairData
from mmcompress.search.budget import Budget
from mmcompress.search.groups import Group, find_groups, swapped
from mmcompress.search.knapsack import solve
from mmcompress.search.planning import Search, compress_within, search, stored_size
from mmcompress.search.proxy_loss import EmbeddingLoss


def batches(data: PairData) -> list[dict[str, torch.Tensor]]:
    return list(data.calibration_dataloader())


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
    ids=["search_space", "alternatives", "stack"],
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
    recipe, pairs = Recipe({n: make() for n, make in steps.items()}), batches(tiny_data)
    plan, report = search(recipe, budget, tiny_backbone, pairs)
    compressed = recipe.apply(tiny_backbone, pairs, plan)
    compressed.finalize()
    artifact = compressed.save(tmp_path / "a", run={"config_hash": "0" * 64, "recipe": "trial"})
    assert 0.95 * limit < artifact.bytes <= limit
    assert report["limit"] == limit
    chosen = {group["chosen"] for group in report["groups"]}
    assert len(chosen) > 1, "one choice for all would need no budget"
    loaded = Artifact.load(tmp_path / "a").backbone.model.state_dict()
    for key, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.slow
def test_more_bytes_never_lose_more(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    losses = []
    for ratio in (3.5, 3.0, 2.5):
        budget = Budget(ratio=ratio, pairs=16)
        recipe = Recipe({"int": Integer(bits=8)})
        _, report = search(recipe, budget, tiny_backbone, batches(tiny_data))
        losses.append(sum(group["losses"][group["chosen"]] for group in report["groups"]))
    assert losses == sorted(losses, reverse=True)


def test_choices_name_steps_of_the_recipe(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    recipe = Recipe({"int": Integer(bits=8)})
    budget = Budget(ratio=2, choices=[{"int4": {"bits": 4}}])
    with pytest.raises(ValueError, match=r"choices names int4, and the recipe's steps are int"):
        search(recipe, budget, tiny_backbone, batches(tiny_data))


def test_only_the_given_choices_are_used(tiny_backbone: HFClip, tiny_data: PairData) -> None:
    choices = [{"int": {"bits": 3}}, {"int": {"bits": 7}}]
    budget = Budget(ratio=3, choices=choices, pairs=16)
    recipe, pairs = Recipe({"int": Integer(bits=8)}), batches(tiny_data)
    found, report = search(recipe, budget, tiny_backbone, pairs)
    plan = recipe.apply(tiny_backbone, pairs, found).plan
    assert report["choices"] == ["dense", "int bits=3", "int bits=7"]
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
    proxy = EmbeddingLoss(tiny_backbone, batches(tiny_data), 16)
    for modality in ("image", "text", "shared"):
        assert proxy.loss(tiny_backbone, modality) == pytest.approx(0.0, abs=1e-6)


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


def test_no_budget_is_no_budget(tiny_backbone: HFClip) -> None:
    assert not Budget().is_set
    Budget().check(Recipe({"u": UPop(pruning_ratio=0.5)}), tiny_backbone)


def fitted(
    backbone: HFClip,
    data: PairData,
    monkeypatch: pytest.MonkeyPatch,
    *,
    sizes: list[int],
    stored: Iterable[int],
) -> list[int]:
    """The choice for one group with choices of these sizes, where trials come out as `stored`."""
    recipe = Recipe({"int": Integer(bits=8)})
    running = Search(recipe, Budget(bytes=100, pairs=16), backbone, batches(data))
    losses = [float(index) for index in range(len(sizes))]
    running.groups = [Group("a", "image", [], bytes=sizes, losses=losses)]
    running.choices = [{}] * len(sizes)
    trials = iter(stored)
    monkeypatch.setattr(running, "_trial", lambda plan: next(trials))
    monkeypatch.setattr("mmcompress.search.planning.bytes_outside", lambda *_: 0)
    chosen = running._fit([{"int": {}}] * len(sizes), running.limit)
    assert next(trials, None) is None, "no plan is stored twice, and none is left out"
    return chosen


def test_a_plan_that_comes_out_too_large_again_is_not_the_last(
    tiny_backbone: HFClip, tiny_data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The goal moves on until the assignment changes, and no plan is stored twice."""
    chosen = fitted(tiny_backbone, tiny_data, monkeypatch, sizes=[95, 50], stored=[101, 60])
    assert chosen == [1]


def test_one_plan_that_is_too_large_does_not_end_the_search_for_a_fuller_one(
    tiny_backbone: HFClip, tiny_data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of the third choice, the first, and the second
    stored = [80, 105, 99]
    chosen = fitted(tiny_backbone, tiny_data, monkeypatch, sizes=[119, 110, 95], stored=stored)
    assert chosen == [1]


def finer(compressed: Compressed) -> None:
    """Steps a little smaller, so that codes carry more information, as training may leave them."""
    with torch.no_grad():
        for one in compressed.applied["entropy"].values():
            one.parametrization.log_step -= 0.05


def test_what_is_finished_after_the_search_keeps_to_the_budget(
    tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path
) -> None:
    recipe, budget = Recipe({"entropy": Entropy(step=1.0)}), Budget(ratio=8, pairs=16)
    given, limit = batches(tiny_data), budget.limit(tiny_backbone)

    plan, _ = search(recipe, budget, tiny_backbone, given)
    alone = recipe.apply(copy.deepcopy(tiny_backbone), given, plan)
    finer(alone)
    assert stored_size(alone) > limit, "else there is nothing to mend"

    before = copy.deepcopy(tiny_backbone.state_dict())
    made, report = compress_within(recipe, budget, tiny_backbone, given, finish=finer)
    assert report is not None
    assert report["limit"] == limit
    for key, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    run = {"config_hash": "0" * 64, "recipe": "trial"}
    assert 0.95 * limit < made.save(tmp_path / "a", run=run).bytes <= limit
    choices = {group["name"]: group["chosen"] for group in report["groups"]}
    decided = {k: d for k, d in made.plan["entropy"].items() if LEFT_DENSE not in d}
    for name, chosen in choices.items():
        steps = [d["step"] for key, d in decided.items() if key.startswith(name)]
        assert all(f"step={step}" in report["choices"][chosen] for step in steps)


def test_a_model_that_is_finished_within_the_budget_is_made_once(
    tiny_backbone: HFClip, tiny_data: PairData
) -> None:
    seen: list[Compressed] = []
    recipe, budget, given = Recipe({"int": Integer(bits=8)}), Budget(ratio=3), batches(tiny_data)
    made, report = compress_within(recipe, budget, tiny_backbone, given, finish=seen.append)
    assert seen == [made]
    plan, expected = search(recipe, budget, tiny_backbone, given)
    assert report == expected
    assert made.plan == recipe.apply(tiny_backbone, given, plan).plan


def test_a_model_that_grows_whatever_is_left_for_it_says_so(
    tiny_backbone: HFClip, tiny_data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it takes twice what was left for it."""
    recipe, budget, given = Recipe({"int": Integer(bits=8)}), Budget(ratio=3), batches(tiny_data)
    left: list[int] = []

    def fit(running: Search, plans: Any, limit: int) -> list[int]:
        left.append(limit)
        running.stored[chosen] = limit
        return list(chosen)

    chosen = (1,) * len(find_groups(recipe, tiny_backbone))
    monkeypatch.setattr(Search, "_fit", fit)
    monkeypatch.setattr(
        "mmcompress.search.planning.stored_size",
        lambda _: left[-1] + 2 * (left[0] - left[-1]) + 100,
    )
    with pytest.raises(ValueError, match=r"4 models were over .* lower the ratio a little, or set"):
        compress_within(recipe, budget, tiny_backbone, given, finish=lambda made: None)
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == len(left) == 4


def test_the_dense_model_is_calibrated_once(
    tiny_backbone: HFClip, tiny_data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the plan is that of a search which calibrates for every choice."""
    calls: list[int] = []

    def spy(*arguments: Any) -> dict[str, Statistic]:
        calls.append(len(arguments))
        return collect(*arguments)

    monkeypatch.setattr("mmcompress.compression.recipe.collect", spy)
    tiny_data.attach(tiny_backbone)
    budget, given = Budget(ratio=3), batches(tiny_data)
    found = search(Recipe({"gptq": GPTQ(bits=4)}), budget, tiny_backbone, given)
    once = len(calls)

    def alone(recipe: Recipe, *arguments: Any, **settings: Any) -> Compressed:
        return apply(recipe, *arguments, **settings | {"statistics": None})

    apply = Recipe.apply
    monkeypatch.setattr(Recipe, "apply", alone)
    assert search(Recipe({"gptq": GPTQ(bits=4)}), budget, tiny_backbone, given) == found
    assert once == 1 < len(calls) - once


def test_statistics_of_an_edited_model_are_not_kept(
    tiny_backbone: HFClip, tiny_data: PairData
) -> None:
    tiny_data.attach(tiny_backbone)
    kept: dict[str, Statistic] = {}
    steps = {"magnitude": Magnitude(sparsity=0.5), "gptq": GPTQ(bits=4)}
    Recipe(steps).apply(copy.deepcopy(tiny_backbone), batches(tiny_data), statistics=kept)
    assert kept == {}
    steps = {"gptq": steps["gptq"]}
    Recipe(steps).apply(copy.deepcopy(tiny_backbone), batches(tiny_data), statistics=kept)
    assert {found.inputs is not None for found in kept.values()} == {True}
