import itertools

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import Applied
from mmcompress.compression.pruning.masks import lowest_mask
from mmcompress.compression.pruning.movement import LEAST, Movement, MovementMask
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.codebook import Codebook


def prepared(sparsity: float = 0.5, **settings: float) -> tuple[nn.Linear, Movement, MovementMask]:
    torch.manual_seed(0)
    layer, movement = nn.Linear(6, 5), Movement(sparsity=sparsity, **settings)
    target = Target("layer", "weight", "image", "mlp.up", "linear")
    decision = movement.plan([target], {target.name: layer.weight.detach()}, {})[target.name]
    mask = movement.apply(layer, "weight", decision)
    assert isinstance(mask, MovementMask)
    nn.utils.parametrize.register_parametrization(layer, "weight", mask)
    return layer, movement, mask


def applied(layer: nn.Linear, mask: MovementMask) -> dict[str, Applied]:
    return {"layer.weight": Applied(layer, "weight", mask)}


def slow_movement(
    weight: Tensor, scores: Tensor, data: list[tuple[Tensor, Tensor]], rate: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Section 3, by hand, for L = Σ y ⊙ (x W'ᵀ): a' = (W ⊙ M) x and ∂L/∂a is y.

    M is Top_v(S) with v of the cubic schedule; ∂L/∂W = ∂L/∂a xᵀ ⊙ M, ∂L/∂S = ∂L/∂a xᵀ ⊙ W.
    """
    masks = []
    for t, (x, y) in enumerate(data):
        share = 1 - (1 - min(t / len(data) / 0.5, 1)) ** 3
        pruned = round(share * round(0.5 * weight.numel()))
        order = sorted(range(weight.numel()), key=scores.flatten().tolist().__getitem__)
        mask = torch.ones(weight.numel())
        mask[order[:pruned]] = 0
        mask = mask.view_as(weight)
        outer = y.T @ x
        weight, scores = weight - rate * outer * mask, scores - rate * outer * weight
        masks.append(mask.bool())
    return weight, scores, masks


def test_against_the_paper():
    layer, movement, mask = prepared(start=0.0)
    generator = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(3, 6, generator=generator), torch.randn(3, 5, generator=generator))
        for _ in range(8)
    ]
    dense = layer.weight.detach().clone()
    expected = slow_movement(dense, LEAST * dense.abs(), data, 0.1)
    original = layer.parametrizations.weight.original
    optimizer = torch.optim.SGD([original, mask.scores], lr=0.1)
    masks = []
    for t, (x, y) in enumerate(data):
        movement.on_step(applied(layer, mask), t / len(data))
        masks.append(mask.mask.clone())
        optimizer.zero_grad()
        (y * (x @ layer.weight.T)).sum().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(masks, expected[2], strict=True))
    torch.testing.assert_close(original.detach(), expected[0])
    torch.testing.assert_close(mask.scores.detach(), expected[1])
    assert any((b & ~a).any() for a, b in itertools.pairwise(masks)), "none came back"


def test_the_value_is_exactly_masked():
    layer, movement, mask = prepared(0.7)
    with torch.no_grad():
        mask.scores.normal_()
    movement.on_step(applied(layer, mask), 1.0)
    assert torch.equal(layer.weight, layer.parametrizations.weight.original * mask.mask)
    assert int((layer.weight == 0).sum()) == 21


def test_untrained_it_is_magnitude_pruning():
    layer, movement, mask = prepared()
    dense = layer.weight.detach().abs()
    movement.on_step(applied(layer, mask), 1.0)
    assert torch.equal(mask.mask, lowest_mask(dense, 15))


def test_masks_follow_scores_as_if_sought_anew():
    """Over many small steps and two jumps, where the last threshold is no help."""
    layer, movement, mask = prepared()
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        with torch.no_grad():
            size = 10.0 if step in (10, 20) else 1e-3
            mask.scores.add_(size * torch.randn(mask.scores.shape, generator=generator))
        movement.on_step(applied(layer, mask), 1.0)
        assert torch.equal(mask.mask, lowest_mask(mask.scores.detach(), mask.pruned)), step


def test_scores_train_where_weights_are_masked():
    layer, movement, mask = prepared()
    movement.on_step(applied(layer, mask), 1.0)
    layer.weight.sum().backward()
    assert torch.equal(mask.scores.grad, layer.parametrizations.weight.original.detach())


def test_no_step_may_keep_the_gradient_from_the_scores(tiny_backbone: Backbone):
    movement = Movement(sparsity=0.5)
    Recipe({"movement": movement, "int4": Integer(bits=4)}).check(tiny_backbone)
    with pytest.raises(ValueError, match=r"step cluster .*no gradient reaches the mask.*magnitude"):
        Recipe({"movement": movement, "cluster": Codebook(clusters=4)}).check(tiny_backbone)


@pytest.mark.parametrize("setting", ["pattern", "compare", "schedule", "updates"])
def test_settings_that_would_do_nothing_are_refused(setting: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{setting}'"):
        Movement(sparsity=0.5, **{setting: None})
