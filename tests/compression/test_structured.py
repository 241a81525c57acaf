"""Removed structures, against the same model with those structures silenced."""

import copy
from functools import partial

import pytest
import torch
from timm.layers import SwiGLU
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.attention import ExplicitSelfAttention
from mmcompress.backbones.base import Backbone, Target
from mmcompress.backbones.fused import split_fused
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.calibration import collect, collect_gradients
from mmcompress.compression.lowrank.joint_qkv import JointQKV
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.importance import (
    ROUNDS,
    diagonal_blocks,
    importances,
    obs_keep,
    output_energies,
)
from mmcompress.compression.pruning.structured import Structured, keep_counts, reconstruction_gain
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.statistics import Statistic
from mmcompress.data.base import PairData
from mmcompress.functional.hessian import damp
from mmcompress.modules.cuts import (
    check_attention,
    check_mlp,
    keep_head_dims,
    keep_heads,
    keep_neurons,
)

LAYER = "vision_model.encoder.layers.0"


@pytest.fixture(params=["hf_clip", "open_clip", "low_rank"])
def backbone(
    request: pytest.FixtureRequest, tiny_backbone: HFClip, tiny_open_clip: OpenClip
) -> Backbone:
    if request.param == "open_clip":
        return tiny_open_clip
    if request.param == "low_rank":
        recipe = Recipe({"lowrank": LowRank(rank_ratio=0.25, weighting="none", role=["*.*"])})
        recipe.apply(tiny_backbone, [])
    with torch.no_grad():  # biases that are zero would hide mistakes
        for name, parameter in tiny_backbone.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return tiny_backbone


def encode_all(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, 32, 32, generator=generator)
    with torch.no_grad():
        image = backbone.encode("image", pictures)
        text = backbone.encode("text", backbone.tokenize(["red cat", "a dog", "green"]))
    return torch.cat([image, text])


def modules_of(backbone: Backbone, granularity: str) -> list[nn.Module]:
    units = [u for u in backbone.units() if u.granularity == granularity]
    return [backbone.model.get_submodule(u.module) for u in units]


def silence(layer: nn.Module, columns: list[int]) -> None:
    """Let a layer no longer read these inputs."""
    last = layer.v if hasattr(layer, "v") else layer
    with torch.no_grad():
        last.weight[:, columns] = 0.0


def test_without_neurons_equals_silenced_neurons(backbone: Backbone):
    for mlp in modules_of(backbone, "mlp"):
        down = mlp.fc2 if hasattr(mlp, "fc2") else mlp.c_proj
        silence(down, list(range(1, down.in_features, 2)))
    expected = encode_all(backbone)
    for mlp in modules_of(backbone, "mlp"):
        down = mlp.fc2 if hasattr(mlp, "fc2") else mlp.c_proj
        keep_neurons(mlp, range(0, down.in_features, 2))
    # float32 sums in another order
    torch.testing.assert_close(encode_all(backbone), expected, rtol=0, atol=1e-6)
    for mlp in modules_of(backbone, "mlp"):
        up, down = (mlp.fc1, mlp.fc2) if hasattr(mlp, "fc2") else (mlp.c_fc, mlp.c_proj)
        assert up.out_features == down.in_features == up.bias.numel()
        assert up.out_features in (32, 16 * 4 // 2)


def test_without_a_head_equals_a_silenced_head(backbone: Backbone):
    for attention in modules_of(backbone, "attention"):
        silence(attention.out_proj, list(range(attention.out_proj.in_features // 2)))
    expected = encode_all(backbone)
    for attention in modules_of(backbone, "attention"):
        keep_heads(attention, [1])
    torch.testing.assert_close(encode_all(backbone), expected, rtol=0, atol=1e-6)
    for attention in modules_of(backbone, "attention"):
        assert attention.q_proj.out_features == attention.out_proj.in_features


def test_without_blocks_equals_blocks_that_add_nothing(backbone: Backbone):
    with torch.no_grad():
        for attention, mlp in zip(
            modules_of(backbone, "attention")[::2], modules_of(backbone, "mlp")[::2], strict=True
        ):
            for layer in (attention.out_proj, mlp.fc2 if hasattr(mlp, "fc2") else mlp.c_proj):
                silence(layer, list(range(layer.in_features)))
                layer.bias.zero_()
    expected = encode_all(backbone)
    plan = {
        u.name: {"kept": 1, "indices": [1], "update": False}
        for u in backbone.units()
        if u.granularity == "stack"
    }
    recipe = Recipe({"blocks": Structured(pruning_ratio=0.5, granularity="stack")})
    recipe.restore(backbone, {"blocks": plan})
    torch.testing.assert_close(encode_all(backbone), expected, rtol=0, atol=1e-6)
    assert [len(stack) for stack in modules_of(backbone, "stack")] == [1, 1]


def slow_taylor(backbone: HFClip, batches: list, path: str, structures: int) -> list[float]:
    """Molchanov et al., eq. 8: Σ over the parameters of a structure of (g_m w_m)²."""
    found = [0.0] * structures
    mlp = backbone.model.get_submodule(path)
    targets = [t for t in backbone.targets() if t.module.startswith(f"{path}.")]
    for batch in batches:
        gradients = collect_gradients(backbone, [batch], targets)
        for j in range(structures):
            for name, layer, weights in [
                ("fc1", mlp.fc1, lambda w, j: w[j]),
                ("fc2", mlp.fc2, lambda w, j: w[:, j]),
            ]:
                gradient = gradients[f"{path}.{name}.weight"].mean
                products = weights(gradient, j) * weights(layer.weight.detach(), j)
                found[j] += sum(float(p) ** 2 for p in products) / len(batches)
    return found


def inside(backbone: Backbone, unit: Target, needs: str, data: PairData):
    targets = [t for t in backbone.targets() if t.name.startswith(f"{unit.name}.")]
    weights = {t.name: backbone.model.get_parameter(t.name).detach() for t in targets}
    return weights, collect(backbone, list(data.calibration_dataloader()), targets, [needs])


def unit_of(backbone: Backbone, name: str) -> Target:
    (found,) = [u for u in backbone.units() if u.name == name]
    return found


def test_taylor_of_neurons_against_the_paper(tiny_backbone: HFClip, tiny_data: PairData):
    unit = unit_of(tiny_backbone, f"{LAYER}.mlp")
    found = importances(unit, *inside(tiny_backbone, unit, "gradients", tiny_data), "taylor")
    batches = list(tiny_data.calibration_dataloader())
    expected = slow_taylor(tiny_backbone, batches, unit.name, 64)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=0)


def test_activation_importance_is_the_energy_of_the_output(
    tiny_backbone: HFClip, tiny_data: PairData
):
    """Of a head: mean squared norm of its share in what the attention adds, bias apart."""
    unit = unit_of(tiny_backbone, f"{LAYER}.self_attn")
    found = importances(unit, *inside(tiny_backbone, unit, "inputs", tiny_data), "activation")
    out = tiny_backbone.model.get_submodule(f"{unit.name}.out_proj")
    seen: list[Tensor] = []
    out.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for batch in tiny_data.calibration_dataloader():
        tiny_backbone.encode("image", batch["image"])
    x = torch.cat([s.flatten(0, 1) for s in seen])
    for head in range(2):
        columns = slice(16 * head, 16 * head + 16)
        added = x[:, columns] @ out.weight.detach()[:, columns].T
        assert found[head].item() == pytest.approx(
            added.square().sum(dim=1).mean().item(), rel=1e-4
        )


def test_energy_of_one_column_is_the_square_of_wanda():
    weight, x = torch.randn(3, 5), torch.randn(5, 20)
    energies = output_energies(weight, diagonal_blocks(x @ x.T, 5))
    wanda = weight.abs() * x.norm(dim=1)
    torch.testing.assert_close(energies, wanda.square().sum(dim=0))


def test_of_twins_one_stays():
    """Scored at once, both would go: each can replace the other."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, generator=generator).repeat_interleave(2, dim=0)
    weight = torch.randn(3, 8, generator=generator)
    kept = obs_keep(weight, x @ x.T, 8, 4)
    assert [index // 2 for index in kept] == [0, 1, 2, 3]


def test_rounds_against_a_slow_loop():
    """Each round: refit all that is left, remove what hurts least."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 60, generator=generator).cumsum(dim=0)
    weight, hessian = torch.randn(3, 12, generator=generator).double(), damp(x @ x.T)
    left = list(range(12))
    for _ in range(ROUNDS):  # two in each
        fitted = weight @ reconstruction_gain(x @ x.T, left)
        inverse = hessian[left][:, left].inverse()
        hurts = [(fitted[:, j].square().sum() / inverse[j, j]).item() for j in range(len(left))]
        worst = sorted(range(len(left)), key=hurts.__getitem__)[:2]
        left = [structure for j, structure in enumerate(left) if j not in worst]
    assert obs_keep(weight, x @ x.T, 12, 12 - 2 * ROUNDS) == left


def moment_of(statistic: Statistic) -> Tensor:
    assert statistic.inputs is not None
    return statistic.inputs.second_moment / statistic.inputs.tokens


@pytest.mark.parametrize(("granularity", "size"), [("mlp", 1), ("self_attn", 16)])
def test_obs_is_the_error_that_least_squares_leaves(
    tiny_backbone: HFClip, tiny_data: PairData, granularity: str, size: int
):
    unit = unit_of(tiny_backbone, f"{LAYER}.{granularity}")
    weights, statistics = inside(tiny_backbone, unit, "inputs", tiny_data)
    found = importances(unit, weights, statistics, "obs")
    name = f"{unit.name}.{'fc2' if granularity == 'mlp' else 'out_proj'}.weight"
    weight, moment = weights[name].double(), moment_of(statistics[name])
    for structure in range(2):
        gone = range(structure * size, structure * size + size)
        kept = [i for i in range(weight.shape[1]) if i not in gone]
        lost = weight.clone()
        lost[:, kept] -= weight @ reconstruction_gain(moment, kept)
        error = ((lost @ damp(moment)) * lost).sum().item()
        assert found[structure].item() == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "activation"])
def test_a_block_is_the_sum_of_its_parts(
    tiny_backbone: HFClip, tiny_data: PairData, importance: str
):
    stack = unit_of(tiny_backbone, "text_model.encoder.layers")
    needs = "gradients" if importance == "taylor" else "inputs"
    weights, statistics = inside(tiny_backbone, stack, needs, tiny_data)
    found = importances(stack, weights, statistics, importance)
    if importance == "activation":
        expected = [
            sum(
                output_energies(weights[name], moment_of(statistics[name])[None]).item()
                for name in weights
                if f"layers.{i}." in name and ("out_proj" in name or "fc2" in name)
            )
            for i in range(2)
        ]
    else:
        parts = [
            sum(
                importances(u, weights, statistics, importance).sum().item()
                for u in tiny_backbone.units()
                if u.name.startswith(f"{stack.name}.{i}.")
            )
            for i in range(2)
        ]
        expected = parts
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_low_rank_layers_are_scored_by_their_factors(tiny_backbone: HFClip, tiny_data: PairData):
    unit = unit_of(tiny_backbone, f"{LAYER}.mlp")
    before = importances(unit, *inside(tiny_backbone, unit, "inputs", tiny_data), "activation")
    full = LowRank(rank_ratio=0.9, weighting="none", rank_multiple=1, role="mlp.*")
    mlp = tiny_backbone.model.get_submodule(unit.module)
    for name in ("fc1", "fc2"):  # full rank: the same layer in two factors
        layer = mlp.get_submodule(name)
        setattr(mlp, name, full.apply(layer, "weight", {"rank": 32, "weighting": "none"}))
    after = importances(unit, *inside(tiny_backbone, unit, "inputs", tiny_data), "activation")
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-7)


def test_gain_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 30, generator=generator, dtype=torch.float64).cumsum(dim=0)
    weight, kept = torch.randn(4, 8, generator=generator), [0, 3, 4, 7]
    moment = x @ x.T
    found = weight.double() @ reconstruction_gain(moment, kept)
    root = torch.linalg.cholesky(damp(moment))  # damping as 8 more observations
    solution = torch.linalg.lstsq(root[kept].T, (weight.double() @ root).T).solution.T
    torch.testing.assert_close(found, solution)
    independent = reconstruction_gain(torch.diag(torch.rand(8) + 0.1), kept)
    torch.testing.assert_close(independent, torch.eye(8, dtype=torch.float64)[:, kept])


@pytest.mark.parametrize("granularity", ["mlp", "attention"])
def test_update_lowers_the_error_of_every_module(
    tiny_backbone: HFClip, tiny_data: PairData, granularity: str
):
    batches = list(tiny_data.calibration_dataloader())
    kept = [0] if granularity == "attention" else list(range(0, 64, 2))
    units = [u for u in tiny_backbone.units() if u.granularity == granularity]
    assert len(units) == 4
    for unit in units:
        module = tiny_backbone.model.get_submodule(unit.module)
        inputs = inputs_of(module, tiny_backbone, batches)
        targets = [t for t in tiny_backbone.targets() if t.module.startswith(unit.module)]
        statistic = Structured.statistic_for(unit, collect(tiny_backbone, batches, targets))
        expected, errors = run(module, inputs), []
        for update in (False, True):
            decision = {"kept": len(kept), "indices": kept, "update": update}
            cut = Structured.apply(copy.deepcopy(module), "", decision, statistic)
            errors.append((run(cut, inputs) - expected).square().sum().item())
        assert errors[1] < errors[0]


def inputs_of(module: nn.Module, backbone: HFClip, batches: list) -> list[tuple[tuple, dict]]:
    seen: list[tuple[tuple, dict]] = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        for batch in batches:
            for modality in backbone.modalities:
                backbone.encode(modality, batch[modality])
    handle.remove()
    return seen


def run(module: nn.Module, inputs: list[tuple[tuple, dict]]) -> Tensor:
    with torch.no_grad():
        outputs = [module(*args, **kwargs) for args, kwargs in inputs]
    return torch.cat([(o[0] if isinstance(o, tuple) else o).flatten(0, 1) for o in outputs])


def test_counts_by_hand():
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([5.0, 6.0, 7.0, 8.0])}
    each = keep_counts(scores, {"a": "a", "b": "b"}, 0.5, 1)
    both = keep_counts(scores, {"a": "x", "b": "x"}, 0.5, 1)
    assert each == {"a": 2, "b": 2}
    assert both == {"a": 1, "b": 4}, "a module keeps at least one"
    assert keep_counts(scores, {"a": "x", "b": "x"}, 0.25, 4) == {"a": 4, "b": 4}
    assert keep_counts(scores, {"a": "x", "b": "x"}, 0.25, 3) == {"a": 3, "b": 3}
    assert keep_counts({"a": torch.ones(12)}, {"a": "a"}, 0.4, 8) == {"a": 8}


def test_the_least_important_go_and_the_manifest_holds_counts(
    tiny_backbone: HFClip, tiny_data: PairData, tmp_path
):
    mlp = tiny_backbone.model.get_submodule(f"{LAYER}.mlp")
    with torch.no_grad():
        mlp.fc2.weight[:, 10:26] *= 0.01
        mlp.fc1.weight[10:26] *= 0.01
    recipe = Recipe(
        {
            "neurons": Structured(
                pruning_ratio=0.25, importance="magnitude", granularity="mlp", multiple=8
            )
        }
    )
    compressed = recipe.apply(tiny_backbone, [])
    plan = compressed.plan
    assert plan["neurons"][f"{LAYER}.mlp"]["indices"] == [*range(10), *range(26, 64)]
    artifact = compressed.save(tmp_path / "artifact", run={"config_hash": "", "recipe": "test"})
    (edit,) = artifact.manifest["structure"]
    assert set(map(str, edit["modules"].values())) == {"{'kept': 48}"}
    loaded = Artifact.load(tmp_path / "artifact").backbone
    assert loaded.model.get_submodule(f"{LAYER}.mlp").fc1.weight.shape == (48, 32)
    assert torch.equal(encode_all(loaded), encode_all(tiny_backbone))


def test_one_scope_lets_the_towers_compete(tiny_backbone: HFClip):
    for mlp in modules_of(tiny_backbone, "mlp")[2:]:
        with torch.no_grad():
            mlp.fc2.weight[:, ::2] = 0.0
            mlp.fc1.weight[::2] = 0.0
    kept = {}
    for scope in ("global", "modality"):
        make = partial(Structured, pruning_ratio=0.25, importance="magnitude", scope=scope)
        step = make(granularity="mlp")
        targets = step.select(tiny_backbone.units())
        weights = {
            t.name: tiny_backbone.model.get_parameter(t.name).detach()
            for t in tiny_backbone.targets()
        }
        plan = step.plan(targets, weights, {})
        kept[scope] = {name: d.get("kept", 64) for name, d in plan.items()}
    assert list(kept["global"].values()) == [64, 64, 32, 32]
    assert sum(list(kept["modality"].values())[2:]) == 96, "each tower loses a quarter"


def test_head_dimensions_keep_the_softmax_scale(backbone: Backbone):
    """A dimension that q and k no longer share, and v no longer fills, is not missed."""
    for attention in modules_of(backbone, "attention"):
        heads = attention.num_heads if hasattr(attention, "num_heads") else attention.heads
        size = attention.out_proj.in_features // heads
        gone = [head * size + dim for head in range(heads) for dim in range(1, size, 2)]
        silence(attention.out_proj, gone)
        key = attention.k_proj.u if hasattr(attention.k_proj, "u") else attention.k_proj
        with torch.no_grad():
            key.weight[gone] = 0.0  # its bias adds the same to all scores of a query
    expected = encode_all(backbone)
    for attention in modules_of(backbone, "attention"):
        heads = attention.num_heads if hasattr(attention, "num_heads") else attention.heads
        keep_head_dims(attention, range(0, attention.out_proj.in_features // heads, 2))
    torch.testing.assert_close(encode_all(backbone), expected, rtol=0, atol=1e-6)


def open_clip_attention(**options: bool) -> ExplicitSelfAttention:
    from open_clip.transformer import Attention

    return ExplicitSelfAttention(Attention(16, num_heads=4, **options))


def test_norms_in_the_way_are_refused():
    norm = nn.Sequential()
    for name, layer in [
        ("c_fc", nn.Linear(4, 8)),
        ("gelu", nn.GELU()),
        ("ln", nn.LayerNorm(8)),
        ("c_proj", nn.Linear(8, 4)),
    ]:
        norm.add_module(name, layer)
    with pytest.raises(ValueError, match=r"ln \(LayerNorm\) in Sequential .*neurons.* selector"):
        check_mlp(norm)
    with pytest.raises(ValueError, match=r"ln_inner \(LayerNormFp32\).*heads"):
        check_attention(open_clip_attention(inner_norm=True))
    qk = open_clip_attention(qk_norm=True)
    check_attention(qk)
    with pytest.raises(ValueError, match=r"ln_[qk] \(LayerNorm\w*\).*dimensions of heads"):
        check_attention(qk, norms=())


def test_head_scales_and_norms_of_heads_are_cut_too():
    attention = open_clip_attention(qk_norm=True, scale_heads=True)
    with torch.no_grad():
        attention.head_scale.copy_(torch.arange(4.0).view(4, 1, 1) + 1)
        silence(attention.out_proj, [*range(4), *range(8, 12)])
        x = torch.randn(2, 5, 16)
        expected = attention(x)
        keep_heads(attention, [1, 3])
        torch.testing.assert_close(attention(x), expected)
    assert attention.head_scale.flatten().tolist() == [2.0, 4.0]


def test_the_gate_of_a_neuron_goes_with_it():
    """timm's SwiGLU: two layers whose outputs are multiplied."""
    mlp = SwiGLU(8, 12)
    with torch.no_grad():
        silence(mlp.fc2, list(range(1, 12, 2)))
        x = torch.randn(2, 5, 8)
        expected = mlp(x)
        keep_neurons(mlp, range(0, 12, 2))
        torch.testing.assert_close(mlp(x), expected)
    assert mlp.fc1_g.out_features == mlp.fc1_x.out_features == mlp.fc2.in_features == 6


def test_heads_of_the_width_of_the_input_are_refused():
    """timm's EVA reshapes what its heads give to the width of its input."""
    attention = EvaAttention(8, num_heads=2, qkv_bias=False, scale_norm=False)
    split_fused(attention)
    with pytest.raises(ValueError, match="EvaAttention expects its heads to be as wide as"):
        check_attention(attention)


def test_other_layers_are_refused(tiny_backbone: HFClip):
    mlp = tiny_backbone.model.get_submodule(f"{LAYER}.mlp")
    mlp.fc1 = nn.Sequential(mlp.fc1)
    with pytest.raises(ValueError, match="Sequential cannot be made smaller: remove structures"):
        check_mlp(mlp)


def test_shared_blocks_and_layers_are_refused(tiny_backbone: HFClip):
    layers = tiny_backbone.model.vision_model.encoder.layers
    layers[1].mlp.fc1 = layers[0].mlp.fc1
    for granularity in ("mlp", "stack"):
        step = Structured(pruning_ratio=0.5, granularity=granularity)
        with pytest.raises(ValueError, match=r"0.* shares a layer with .*1.mlp.fc1, which would"):
            Recipe({"s": step}).check(tiny_backbone)
    layers[1] = layers[0]
    with pytest.raises(ValueError, match="layers has one block in several places"):
        Recipe({"s": Structured(pruning_ratio=0.5, granularity="stack")}).check(tiny_backbone)


def test_heads_of_a_joint_factorization(tiny_backbone: HFClip, tiny_data: PairData):
    """q, k and v that share one factor."""
    steps = {
        "joint": JointQKV(rank_ratio=0.5),
        "heads": Structured(pruning_ratio=0.5, importance="magnitude", granularity="attention"),
    }
    Recipe(steps).apply(tiny_backbone, list(tiny_data.calibration_dataloader()))
    for attention in modules_of(tiny_backbone, "attention"):
        assert attention.q_proj.out_features == attention.k_proj.out_features == 16
    assert torch.isfinite(encode_all(tiny_backbone)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruning_ratio": 1.0}, "pruning_ratio=1.0"),
        ({"pruning_ratio": 0.5, "importance": "luck"}, "magnitude, taylor, activation, obs"),
        ({"pruning_ratio": 0.5, "scope": "layer"}, "uniform, modality, global"),
        ({"pruning_ratio": 0.5, "multiple": 0}, "multiple=0"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Structured(**settings)
