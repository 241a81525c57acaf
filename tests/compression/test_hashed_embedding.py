import itertools

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.hashed_embedding import (
    HashEmbedding,
    alternating_least_squares,
    refit_importance,
    refit_table,
)
from mmcompress.compression.statistics import Statistic, input_statistic
from mmcompress.data.base import PairData
from mmcompress.modules.hashed_embedding import PRIME, HashedEmbedding, hash_rows


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(dense: Tensor, rows: Tensor, table: Tensor, importance: Tensor, f: Tensor) -> float:
    """Σ_i f_i ‖e_i − Σ_h p_ih T[rows_ih]‖², by loops."""
    total = 0.0
    for i in range(len(dense)):
        mixed = sum(importance[i, h] * table[rows[i, h]] for h in range(rows.shape[1]))
        total += float(f[i] * (dense[i] - mixed).square().sum())
    return total


def test_hash_by_hand() -> None:
    generator = torch.Generator().manual_seed(5)
    a = torch.randint(1, PRIME, (2,), generator=generator).tolist()
    b = torch.randint(0, PRIME, (2,), generator=generator).tolist()
    rows = hash_rows(torch.tensor([[0, 49407]]), buckets=7, hashes=2, seed=5)
    expected = [[((a[h] * i + b[h]) % PRIME) % 7 for h in range(2)] for i in (0, 49407)]
    assert rows.tolist() == [expected]


def test_hashes_spread() -> None:
    rows = hash_rows(torch.arange(10000), buckets=100, hashes=2, seed=0)
    for h in range(2):
        counts = torch.bincount(rows[:, h], minlength=100)
        assert counts.min() > 50
        assert counts.max() < 200
    assert (rows[:, 0] == rows[:, 1]).float().mean() < 0.05


def test_forward_is_the_weighted_sum() -> None:
    hashed = HashedEmbedding(nn.Embedding(20, 6), buckets=5, hashes=3, seed=0)
    ids = torch.tensor([[3, 19, 3]])
    rows = hashed.rows(ids)
    expected = torch.stack(
        [
            sum(hashed.importance.weight[i, h] * hashed.table.weight[r] for h, r in enumerate(row))
            for i, row in zip(ids[0], rows[0].tolist(), strict=True)
        ]
    )[None]
    torch.testing.assert_close(hashed(ids), expected)
    torch.testing.assert_close(hashed.weight[ids], expected)


def test_one_hash_gives_the_best_rank_one_of_each_bucket() -> None:
    """Tokens of a bucket are multiples of its row: weighted Eckart and Young, bucket by bucket."""
    dense, f = random(40, 6), random(40, seed=1).abs() + 0.1
    rows = hash_rows(torch.arange(40), buckets=8, hashes=1, seed=0)
    table, importance = alternating_least_squares(dense, rows, f, buckets=8, seed=0)
    best = 0.0
    for bucket in range(8):
        members = rows[:, 0] == bucket
        sigma = torch.linalg.svdvals(f[members].sqrt()[:, None] * dense[members])
        best += float(sigma[1:].square().sum())
    # twenty rounds of what is a power iteration here
    assert error(dense, rows, table, importance, f) == pytest.approx(best, rel=0.03)


def test_each_half_step_lowers_the_error_and_solves_its_problem() -> None:
    dense, f = random(60, 8), random(60, seed=1).abs() + 0.1
    rows = hash_rows(torch.arange(60), buckets=12, hashes=2, seed=0)
    importance = torch.ones(60, 2)
    table = torch.zeros(12, 8)
    errors = [error(dense, rows, table, importance, f)]
    for _ in range(4):
        table = refit_table(table, dense, rows, importance, f)
        errors.append(error(dense, rows, table, importance, f))
        importance = refit_importance(table, dense, rows)
        errors.append(error(dense, rows, table, importance, f))
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(errors))
    design = table[rows[7]].T.double()
    solution = torch.linalg.lstsq(design, dense[7].double()[:, None]).solution[:, 0]
    torch.testing.assert_close(importance[7].double(), solution, atol=1e-3, rtol=1e-3)


def test_frequent_tokens_are_served_better() -> None:
    layer = nn.Embedding(200, 8)
    seen = Statistic(input_statistic(layer, torch.arange(20).repeat(100), None))
    decision = {"buckets": 20, "hashes": 2, "seed": 0}
    hashed = HashEmbedding.apply(layer, "weight", decision, seen)
    errors = (hashed.weight - layer.weight).square().sum(dim=1)
    assert errors[:20].mean() < 0.5 * errors[20:].mean()


def test_later_steps_target_table_and_weights(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    steps = {
        "hashed": HashEmbedding(bucket_ratio=0.25),
        "int8": Integer(bits=8, role="embed"),
    }
    plan = Recipe(steps).apply(tiny_backbone, tiny_data.calibration_dataloader()).plan
    prefix = "text_model.embeddings.token_embedding"
    assert set(plan["int8"]) == {f"{prefix}.table.weight", f"{prefix}.importance.weight"}


def test_on_open_clip(tiny_open_clip: OpenClip) -> None:
    batches = [{"text": tiny_open_clip.tokenize(["a red cat", "two dogs"])}]
    Recipe({"hashed": HashEmbedding(bucket_ratio=0.05)}).apply(tiny_open_clip, batches)
    assert tiny_open_clip.model.token_embedding.table.weight.shape == (2470, 16)
    assert torch.isfinite(tiny_open_clip.encode("text", batches[0]["text"])).all()


def test_what_would_not_shrink_is_left_dense() -> None:
    assert HashEmbedding(bucket_ratio=0.9, hashes=2)._decide(100, 4) == {
        LEFT_DENSE: "90 buckets and 2 weights per token would not shrink 100x4"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bucket_ratio": 1.0}, r"bucket_ratio=1\.0 must lie between 0 and 1"),
        ({"bucket_ratio": 0.5, "hashes": 0}, "hashes=0 must be at least 1"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashEmbedding(**settings)
