"""The search against the paper's masks on activations; what is cut against what is zero."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.base import Applied
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.encodings import keep_in_encoding
from mmcompress.compression.pruning.structure_masks import StructureMask, cost, units_of
from mmcompress.compression.pruning.upop import UPop, choose, due_share
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.codebook import Codebook
from mmcompress.data.base import PairData
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.search.groups import find_groups

BLOCK = "vision_model.encoder.layers.0"


def slow_mlp(mlp: nn.Module, x: Tensor, alpha: Tensor) -> Tensor:
    """Section 3: each hidden neuron is multiplied by its mask."""
    return mlp.fc2(mlp.activation_fn(mlp.fc1(x)) * alpha)


def slow_attention(attention: nn.Module, x: Tensor, alpha: Tensor) -> Tensor:
    """Section 3: in every head, q, k and v are multiplied by the masks of their dimensions."""
    batch, tokens, _ = x.shape
    heads, size = attention.num_heads, attention.head_dim
    q, k, v = (
        layer(x).view(batch, tokens, heads, size).transpose(1, 2) * alpha
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(size), dim=-1)
    return attention.out_proj((weights @ v).transpose(1, 2).reshape(batch, tokens, heads * size))


def masked(backbone: HFClip, path: str, alpha: Tensor) -> dict[str, StructureMask]:
    """Put the masks on one module."""
    found = {}
    for target in UPop.candidates(backbone):
        if not target.name.startswith(f"{path}."):
            continue
        (decision,) = UPop(pruning_ratio=0.5).plan([target], {}, {}).values()
        layer = backbone.model.get_submodule(target.module)
        mask = UPop.apply(layer, "weight", decision)
        mask.set_alpha(alpha, 0)
        nn.utils.parametrize.register_parametrization(layer, "weight", mask)
        found[target.role] = mask
    return found


@pytest.fixture
def biased(tiny_backbone: HFClip) -> HFClip:
    """A backbone whose biases and weights are large enough for every mistake to show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in tiny_backbone.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            elif parameter.ndim == 2 and "layers" in name:
                parameter.mul_(10)
    return tiny_backbone


@pytest.mark.parametrize(
    ("name", "size", "slow"), [("mlp", 64, slow_mlp), ("self_attn", 16, slow_attention)]
)
def test_masks_on_weights_are_masks_on_activations(
    biased: HFClip, name: str, size: int, slow: Callable[[nn.Module, Tensor, Tensor], Tensor]
):
    """Value and gradient: the paper's α on q, k, v, or neurons; ours on k, out, or down."""
    module = biased.model.get_submodule(f"{BLOCK}.{name}")
    x, target = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    alpha = torch.rand(size).requires_grad_()
    expected = slow(module, x, alpha)
    (gradient,) = torch.autograd.grad((expected * target).sum(), alpha)
    masks = masked(biased, f"{BLOCK}.{name}", alpha.detach())
    assert set(masks) == ({"mlp.down"} if name == "mlp" else {"attn.k", "attn.out"})
    found = module(x) if name == "mlp" else module(x)[0]
    # float32, sums of products of size 10 to 100
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    (found * target).sum().backward()
    total = torch.stack([mask.gathered for mask in masks.values()]).sum(dim=0)
    torch.testing.assert_close(total, gradient, rtol=1e-3, atol=gradient.abs().max().item() * 1e-4)


def test_schedule_by_hand():
    for t in range(11):
        assert due_share(t / 10) == pytest.approx(math.sqrt((1 - math.cos(math.pi * t / 10)) / 2))
    assert due_share(1.0) == 1.0


def slow_choose(
    gradients: list[list[float]], kinds: list[str], costs: list[int], share: float
) -> list[list[bool]]:
    """Standardize per kind, go down the list of all masks until the weights are spent."""
    entries = []
    for kind in set(kinds):
        pooled = [
            g for module, k in zip(gradients, kinds, strict=True) if k == kind for g in module
        ]
        mean = sum(pooled) / len(pooled)
        spread = math.sqrt(sum((g - mean) ** 2 for g in pooled) / len(pooled))
        for m, module in enumerate(gradients):
            if kinds[m] == kind:
                entries += [((g - mean) / spread, m, j) for j, g in enumerate(module)]
    budget = share * sum(cost * len(g) for cost, g in zip(costs, gradients, strict=True))
    goes = [[False] * len(module) for module in gradients]
    spent = 0
    for _, m, j in sorted(entries, reverse=True):
        spent += costs[m]
        if spent > budget:
            break
        goes[m][j] = True
    return goes


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8])
def test_choice_against_a_slow_loop(share: float):
    generator = torch.Generator().manual_seed(3)
    gradients = [
        torch.randn(n, generator=generator) * s for n, s in [(8, 1), (16, 9), (8, 2), (16, 3)]
    ]
    kinds, costs = ["attention", "mlp"] * 2, [70, 10, 50, 8]
    found = choose(gradients, kinds, costs, share)
    expected = slow_choose([g.tolist() for g in gradients], kinds, costs, share)
    assert [chosen.tolist() for chosen in found] == expected


def test_a_module_keeps_one_structure():
    found = choose([torch.tensor([5.0, 6.0]), torch.zeros(20)], ["mlp"] * 2, [1, 1], 0.9)
    assert found[0].tolist() == [False, True]
    assert int(found[1].sum()) < 20


def train(compressed: Compressed, data: PairData, steps: int) -> None:
    backbone = compressed.backbone
    batch = next(iter(data.calibration_dataloader()))
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        compressed.on_step(step / steps)
        optimizer.zero_grad()
        with nn.utils.parametrize.cached():
            pair = [backbone.encode(m, batch[m]) for m in backbone.modalities]
        contrastive_loss(*pair, backbone.logit_scale).backward()
        optimizer.step()


def test_masks_shrink_to_zero_and_then_stay(tiny_backbone: HFClip, tiny_data: PairData):
    upop = UPop(pruning_ratio=0.5, search=0.5, updates=5)
    recipe = Recipe({"upop": upop})
    compressed = recipe.apply(tiny_backbone, list(tiny_data.calibration_dataloader()))
    applied = compressed.applied["upop"]
    seen = []
    on_step = upop.on_step

    def spy(applied: dict[str, Applied], progress: float) -> None:
        on_step(applied, progress)
        seen.append(torch.cat([a.parametrization.alpha for a in applied.values()]))

    upop.on_step = spy
    train(compressed, tiny_data, 20)
    lows = [alpha.min().item() for alpha in seen]
    expected = [1 - due_share(min(int(step / 20 / 0.5 * 5), 5) / 5) for step in range(20)]
    assert lows == pytest.approx(expected, abs=1e-6)
    assert set(seen[-1].tolist()) == {0.0, 1.0}
    assert all(torch.equal(alpha, seen[-1]) for alpha in seen[10:])
    # an attention dimension costs 2·(3·32 + 32), a neuron 64, and one more entry may fit
    units = units_of(applied)
    total = sum(cost(m, applied) * len(m[0].alpha) for m in units)
    gone = sum(cost(m, applied) * int((m[0].alpha == 0).sum()) for m in units)
    assert 0.5 * total - 256 < gone <= 0.5 * total


@pytest.fixture(params=["hf_clip", "open_clip", "low_rank"])
def backbone(request: pytest.FixtureRequest, biased: HFClip, tiny_open_clip: OpenClip) -> Backbone:
    if request.param == "open_clip":
        return tiny_open_clip
    if request.param == "low_rank":
        lowrank = LowRank(rank_ratio=0.375, weighting="none", role=["*.*"], rank_multiple=4)
        Recipe({"lowrank": lowrank}).apply(biased, [])
    return biased


@pytest.mark.parametrize("values", [None, "per_channel", "groups"])
def test_what_is_zero_is_removed(
    backbone: Backbone, values: str | None, caplog: pytest.LogCaptureFixture
):
    data = {
        "image": torch.rand(4, 3, 32, 32),
        "text": backbone.tokenize(["red cat", "blue dog", "green", "black moon"]),
    }
    steps = {"upop": UPop(pruning_ratio=0.5)}
    if values is not None:
        size = 4 if values == "groups" else None
        steps["int8"] = Integer(
            bits=8, group_size=size, granularity="linear", role=["attn.*", "mlp.*"]
        )
    recipe = Recipe(steps, dense_dtype="float32")
    compressed = recipe.apply(backbone, [data])
    compressed.on_step(1.0)
    with torch.no_grad():
        expected = torch.cat([backbone.encode(m, data[m]) for m in backbone.modalities])
    dense = sum(p.numel() for p in backbone.parameters())
    encodings = compressed.finalize()
    with torch.no_grad():
        found = torch.cat([backbone.encode(m, data[m]) for m in backbone.modalities])
    # sums of fewer terms; the weights of the tests are large
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    left = sum(p.numel() for p in backbone.parameters())
    cut = compressed.structure()
    if values == "groups":
        assert left == dense
        assert cut == []
        assert "keeps its size and its zeros: groups of its columns share a scale" in caplog.text
    else:
        assert left < dense
        assert {(entry["edit"], entry["version"]) for entry in cut} == {("cut", 1)}
        assert all(e.mask is None for e in encodings.values())


def test_int8_of_what_is_left_is_stored_exactly(
    tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path
):
    recipe = Recipe({"upop": UPop(pruning_ratio=0.5), "int8": Integer(bits=8)})
    compressed = recipe.apply(tiny_backbone, list(tiny_data.calibration_dataloader()))
    train(compressed, tiny_data, 4)
    encodings = compressed.finalize()
    compressed.save(tmp_path / "artifact", run={"config_hash": "", "recipe": "test"})
    state = Artifact.load(tmp_path / "artifact").backbone.model.state_dict()
    for key, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(state[key], tensor), key
    down = encodings[f"{BLOCK}.mlp.fc2.weight"]
    assert down.values["group_size"] == state[f"{BLOCK}.mlp.fc2.weight"].shape[1] < 64


def test_encodings_are_cut_with_their_weights():
    scale = torch.rand(4, 1)
    whole = Encoding(
        values={"codec": "quantize", "bits": 4, "group_size": 6},
        tensors={"scale": scale, "column_scale": torch.arange(6.0)},
        mask=torch.eye(4, 6).bool(),
    )
    rows = keep_in_encoding(whole, [0, 2], 0)
    assert torch.equal(rows.tensors["scale"], scale[[0, 2]])
    assert rows.values["group_size"] == len(rows.tensors["column_scale"]) == 6
    assert torch.equal(rows.mask, torch.eye(4, 6).bool()[[0, 2]])
    columns = keep_in_encoding(whole, [1, 5], 1)
    assert columns.values["group_size"] == 2
    assert columns.tensors["column_scale"].tolist() == [1.0, 5.0]
    assert torch.equal(columns.tensors["scale"], scale)
    codebook = Encoding(values={"codec": "codebook"}, tensors={})
    with pytest.raises(ValueError, match="codebook"):
        keep_in_encoding(codebook, [0], 0)


def test_no_step_may_keep_the_gradient_from_the_masks(tiny_backbone: Backbone):
    with pytest.raises(ValueError, match=r"no gradient reaches the mask"):
        Recipe({"u": UPop(pruning_ratio=0.5), "c": Codebook(clusters=4)}).check(tiny_backbone)


def test_half_an_attention_is_refused(tiny_backbone: Backbone):
    with pytest.raises(ValueError, match=r"one of attn.k and attn.out.* use attn"):
        Recipe({"u": UPop(pruning_ratio=0.5, role="attn.k")}).check(tiny_backbone)
    Recipe({"u": UPop(pruning_ratio=0.5, role="mlp.*")}).check(tiny_backbone)


def test_heads_that_rotate_are_refused(
    tiny_backbone: HFClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = type(tiny_backbone.model.text_model.encoder.layers[0].self_attn)
    forward = attention.forward

    def rotary(self, *args, position_embeddings=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(attention, "forward", rotary)
    with pytest.raises(ValueError, match=r"no dimensions of heads can go .*rotation by position"):
        Recipe({"upop": UPop(pruning_ratio=0.5)}).check(tiny_backbone)
    Recipe({"upop": UPop(pruning_ratio=0.5, role="mlp.*")}).check(tiny_backbone)


def test_a_budget_is_refused(tiny_backbone: Backbone):
    with pytest.raises(ValueError, match=r"budget cannot vary step u, .*pruning_ratio"):
        find_groups(Recipe({"u": UPop(pruning_ratio=0.5)}), tiny_backbone)


def test_layers_that_are_shared_are_refused(tiny_backbone: HFClip):
    layers = tiny_backbone.model.vision_model.encoder.layers
    layers[1].mlp.fc1 = layers[0].mlp.fc1
    with pytest.raises(
        ValueError, match=r"shares a layer with .*1.mlp.fc1, which would not be cut"
    ):
        Recipe({"u": UPop(pruning_ratio=0.5)}).check(tiny_backbone)


def test_resumed_masks_go_on_where_they_were(
    make_tiny_backbone: Callable[..., HFClip], tiny_data: PairData
):
    """A checkpoint in the middle of an interval: the next update comes at the same step."""
    batches = list(tiny_data.calibration_dataloader())
    states = []
    for resumed in (False, True):
        backbone, upop = make_tiny_backbone(), UPop(pruning_ratio=0.5, search=1.0, updates=4)
        tiny_data.attach(backbone)
        recipe = Recipe({"upop": upop})
        compressed = recipe.apply(backbone, batches)
        plan = compressed.plan
        batch = batches[0]
        for step in range(8):
            if resumed and step == 3:
                state = backbone.state_dict()
                backbone, upop = (
                    make_tiny_backbone(1),
                    UPop(pruning_ratio=0.5, search=1.0, updates=4),
                )
                recipe = Recipe({"upop": upop})
                compressed = recipe.restore(backbone, plan)
                backbone.load_state_dict(state)
            compressed.on_step(step / 8)
            pair = [backbone.encode(m, batch[m]) for m in backbone.modalities]
            contrastive_loss(*pair, backbone.logit_scale).backward()
        states.append(backbone.state_dict())
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruning_ratio": 1.0}, "pruning_ratio=1.0"),
        ({"pruning_ratio": 0.5, "search": 0.0}, "search=0.0"),
        ({"pruning_ratio": 0.5, "updates": 0}, "updates=0"),
        ({"pruning_ratio": 0.5, "importance": "luck"}, "gradient or taylor"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        UPop(**settings)
