from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.output_aware import Layer, assign, fit, refit, rms_scale
from mmcompress.compression.sharing.vq import VectorLookup, VectorQuantizer
from mmcompress.compression.statistics import Statistic, input_statistic
from mmcompress.data.base import PairData
from mmcompress.functional.kmeans import weighted_kmeans


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(role: str = "mlp.up", modality: str = "image", name: str = "layer") -> Target:
    return Target(name, "weight", modality, role, "linear")


def correlated(tokens: int, columns: int) -> Tensor:
    """Inputs of unequal size that share a few directions."""
    return random(tokens, 3, seed=7) @ random(3, columns, seed=8) + 0.3 * random(tokens, columns)


def layer_of(rows: int, columns: int, *, row_scale: bool = True) -> Layer:
    inputs = correlated(100, columns)
    weight = random(rows, columns) * torch.logspace(-1, 1, rows)[:, None]
    ones = torch.ones(rows)
    seen = input_statistic(nn.Linear(columns, rows), inputs, None)
    return Layer(weight, seen, ones, rms_scale(weight, row_scale))


def quantized(layer: Layer, codebook: Tensor, indices: Tensor) -> Tensor:
    return codebook[indices].reshape(layer.weight.shape) * layer.scale.float()


def test_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0, -1.0, -2.0], [-1.0, -2.0, 1.0, 2.0]])
    layer = Layer.of(weight, None, row_scale=False)
    codebook, (indices,) = fit([layer], clusters=2, block_size=2, seed=0)
    assert sorted(codebook.tolist()) == [[-1.0, -2.0], [1.0, 2.0]]
    assert torch.equal(codebook[indices].reshape(2, 4), weight)


def reference_assignment(layer: Layer, codebook: Tensor) -> Tensor:
    """Algorithm 1 of arXiv:2402.15319 by optimal brain surgery: H⁻¹ anew for each block.

    The block J is chosen to cost least once the columns after it have moved to make up for it:
    the Schur complement of H is that cost.
    """
    w = layer.weight.double() / layer.scale.double()
    h = layer.moment.double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h))
    d = codebook.shape[1]
    chosen = torch.zeros(len(w), w.shape[1] // d, dtype=torch.int64)
    for row in range(len(w)):
        for q in range(0, w.shape[1], d):
            inverse = torch.linalg.inv(h[q:, q:])
            cost = torch.linalg.inv(inverse[:d, :d])
            deltas = [w[row, q : q + d] - c.double() for c in codebook]
            costs = [float(delta @ cost @ delta) for delta in deltas]
            best = costs.index(min(costs))
            chosen[row, q // d] = best
            w[row, q + d :] -= deltas[best] @ cost @ inverse[:d, d:]
    return chosen.flatten()


@pytest.mark.parametrize("row_scale", [True, False])
@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_assignment_equals_the_paper(block_size: int, row_scale: bool) -> None:
    layer = layer_of(6, 12, row_scale=row_scale)
    codebook = random(8, block_size, seed=2)
    assert torch.equal(assign(layer, codebook), reference_assignment(layer, codebook))


def test_error_feedback_beats_nearest_entries_on_the_output() -> None:
    layer = layer_of(32, 32)
    codebook = weighted_kmeans(layer.normalized.reshape(-1, 2), torch.ones(512, 2), 16, seed=0)
    blind = assign(Layer(layer.weight, None, layer.row_weight, layer.scale), codebook)
    aware = assign(layer, codebook)
    assert layer.error(quantized(layer, codebook, aware)) < 0.5 * layer.error(
        quantized(layer, codebook, blind)
    )


def test_refit_equals_least_squares() -> None:
    """min over C of Σ_l ‖(W_l − C[I]) R_l‖² / E_l, R Rᵀ the damped moment, with all unknowns."""
    layers = [layer_of(6, 8), layer_of(5, 4)]
    codebook = random(3, 2, seed=2)
    indices = [assign(layer, codebook) for layer in layers]
    shares = [1.0, 0.3]
    designs, wanted = [], []
    for layer, index, share in zip(layers, indices, shares, strict=True):
        damped = layer.moment.double()
        damped = damped + 0.01 * damped.diagonal().mean() * torch.eye(len(damped))
        root = torch.linalg.cholesky(damped)
        columns = []
        for unknown in range(codebook.numel()):
            unit = torch.zeros(codebook.numel()).double()
            unit[unknown] = 1.0
            moved = unit.view(codebook.shape)[index].reshape(layer.weight.shape)
            columns.append(share**0.5 * (moved * layer.scale.double() @ root).flatten())
        designs.append(torch.stack(columns, dim=1))
        wanted.append(share**0.5 * (layer.weight.double() @ root).flatten())
    expected = torch.linalg.lstsq(torch.cat(designs), torch.cat(wanted)).solution
    found = refit(codebook, layers, indices, shares)
    # six unknowns: conjugate gradients are through after as many steps, up to float32
    torch.testing.assert_close(found.double().flatten(), expected, atol=1e-4, rtol=1e-3)


def test_refit_never_raises_the_error() -> None:
    for clusters in (4, 16, 64):
        layer = layer_of(24, 32)
        codebook = random(clusters, 4, seed=clusters)
        indices = assign(layer, codebook)
        before = layer.error(quantized(layer, codebook, indices))
        after = layer.error(quantized(layer, refit(codebook, [layer], [indices], [1.0]), indices))
        assert after < before


def test_an_embedding_serves_the_rows_that_are_read() -> None:
    table = nn.Embedding(64, 4)
    seen = input_statistic(table, torch.arange(8).repeat(50), None)
    weight = table.weight.detach()
    layer = Layer.of(weight, Statistic(seen), row_scale=False)
    assert layer.row_weight[0] == 9 * layer.row_weight[20]
    codebook, (indices,) = fit([layer], clusters=8, block_size=4, seed=0)
    blind = Layer.of(weight, None, row_scale=False)
    blind_codebook, (blind_indices,) = fit([blind], clusters=8, block_size=4, seed=0)
    errors = [
        (book[index].reshape(64, 4) - weight)[:8].square().sum()
        for book, index in [(codebook, indices), (blind_codebook, blind_indices)]
    ]
    assert errors[0] < 0.7 * errors[1]


def test_entries_are_rounded_and_trained() -> None:
    weight = random(8, 8)
    layer = Layer.of(weight, None, row_scale=True)
    lookup = VectorLookup(layer, clusters=4, block_size=2, seed=0, row_scale=True, group=None)
    with torch.no_grad():
        lookup.codebook.add_(1e-5)
    baked = lookup(weight)
    upstream = random(8, 8, seed=1)
    (baked * upstream).sum().backward()
    entries = lookup.codebook.detach().half().float()
    expected = entries[lookup.indices].reshape(8, 8) * lookup.scale.float()
    assert torch.equal(baked.detach(), expected)
    gradient = torch.zeros(4, 2).index_add_(
        0, lookup.indices, (upstream * lookup.scale.float()).reshape(-1, 2)
    )
    torch.testing.assert_close(lookup.codebook.grad, gradient)


@pytest.mark.parametrize(("scope", "books"), [("weight", 4), ("role", 3), ("modality", 2)])
def test_scope_says_who_shares(scope: str, books: int) -> None:
    targets = [
        target("attn.q", name="a"),
        target("attn.q", name="b"),
        target("mlp.up", name="c"),
        target("attn.q", "text", name="d"),
    ]
    weights = {t.name: random(16, 8, seed=i) for i, t in enumerate(targets)}
    plan = VectorQuantizer(clusters=4, codebook_scope=scope).plan(targets, weights, {})
    groups = [d["group"] or name for name, d in plan.items()]
    assert len(set(groups)) == books


def test_shared_codebook_is_one_tensor_in_training_and_in_the_file(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    step = VectorQuantizer(clusters=16, codebook_scope="role", role=["attn.q", "mlp.up"])
    recipe = Recipe({"vq": step})
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    applied = compressed.applied["vq"]
    books = {a.parametrization.codebook for a in applied.values()}
    assert len(applied) == 8
    assert len(books) == 4  # two roles in two towers
    total = sum(p.numel() for p in tiny_backbone.parameters()) - sum(b.numel() for b in books)
    assert compressed.coverage["vq"] == pytest.approx(4 * (32 * 32 + 64 * 32) / total)
    encodings = compressed.finalize()
    assert len({e.tensors["codebook"].data_ptr() for e in encodings.values()}) == 4


def test_shared_codebook_is_stored_once_and_reloaded(
    tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    recipe = Recipe({"vq": VectorQuantizer(clusters=16, codebook_scope="role")})
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    compressed.finalize()
    artifact = compressed.save(tmp_path / "artifact")
    rows = artifact.ledger()
    assert sum(row.bytes for row in rows) == artifact.bytes
    roles = {(t.modality, t.role) for t in tiny_backbone.targets() if t.role != "position"}
    assert sorted((r.modality, r.role) for r in rows if r.payload == "codebook") == sorted(roles)
    loaded = Artifact.load(tmp_path / "artifact").backbone.model.state_dict()
    for key, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def test_restored_layers_share_again(make_tiny_backbone, tiny_data: PairData) -> None:
    recipe = Recipe({"vq": VectorQuantizer(clusters=16, codebook_scope="modality", role="mlp.*")})
    backbone = make_tiny_backbone()
    tiny_data.attach(backbone)
    plan = recipe.apply(backbone, tiny_data.calibration_dataloader()).plan
    other = make_tiny_backbone(seed=1)
    applied = recipe.restore(other, plan).applied["vq"]
    other.load_state_dict(backbone.state_dict())
    assert len({a.parametrization.codebook for a in applied.values()}) == 2


def test_plan_leaves_what_would_not_shrink() -> None:
    plan = VectorQuantizer(clusters=16).plan([target()], {"layer.weight": random(4, 4)}, {})
    assert "would not shrink" in plan["layer.weight"][LEFT_DENSE]


def test_a_codebook_has_entries_of_one_size() -> None:
    """A stem of 27 columns shares none with layers of the same role."""
    columns = {"a": 27, "b": 32, "c": 32, "d": 49}
    weights = {f"{name}.weight": random(64, count) for name, count in columns.items()}
    targets = [target(name=name) for name in columns]
    plan = VectorQuantizer(clusters=4, codebook_scope="role").plan(targets, weights, {})
    assert "divides its 49 columns" in plan.pop("d.weight")[LEFT_DENSE]
    assert [d["block_size"] for d in plan.values()] == [3, 4, 4]
    assert plan["a.weight"]["group"] != plan["b.weight"]["group"] == plan["c.weight"]["group"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "clusters=1"),
        ({"clusters": 4, "block_size": 0}, "block_size=0"),
        ({"clusters": 4, "codebook_scope": "tower"}, "codebook_scope='tower' must be one of weig"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**settings)
