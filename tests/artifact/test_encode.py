"""Which chain wins, and that every one gives the weight back."""

from collections.abc import Callable
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.encode import encode
from mmcompress.artifact.encoding import Encoding
from mmcompress.format.chain import Chain, decode
from mmcompress.format.codecs import ans

EncodeAs = Callable[[str, Tensor], Encoding]
SHAPES = [(1, 16), (48, 32), (5, 48), (8, 3, 4, 4)]


def codecs(chain: list[dict]) -> list[str]:
    return [stage["codec"] for stage in chain]


def test_int4_by_hand() -> None:
    weight = torch.tensor([[0.5, -1.0], [3.5, 0.0]])
    values = {"codec": "quantize", "bits": 4, "group_size": 2}
    scale = torch.full((2, 1), 0.5)
    chain, payloads = encode(weight, Encoding(values=values, tensors={"scale": scale}))
    assert chain == [values, {"codec": "pack", "bits": 4}]
    # Codes 1, −2, 7, 0, each shifted by 8; the scale is exact in half precision.
    assert payloads["codes"].tolist() == [0x69, 0x8F]
    assert payloads["scale"].dtype == np.float16


def test_pruned_floats_by_hand() -> None:
    bits = [0b1000_1101, 0b0100_0000, 0b0010_1000, 0b0001_0001, 0b1000_0110, 0b0000_0100]
    mask = torch.tensor([b >> j & 1 for b in bits for j in range(8)]).bool().view(4, 12)
    weight = torch.rand(4, 12, generator=torch.Generator().manual_seed(0)) * mask
    chain, payloads = encode(weight, Encoding(mask=mask))
    assert chain == [{"codec": "bitmask", "kept": 13}]
    assert payloads["mask"].tolist() == bits
    assert np.array_equal(payloads["codes"], weight[mask])


@pytest.mark.parametrize(("keep", "of", "bits"), [(2, 4, 2.585), (4, 8, 6.129)])
def test_patterns_cost_what_their_number_says(keep: int, of: int, bits: float) -> None:
    """2:4 has 6 patterns, 4:8 has 70."""
    scores = torch.rand(512, 512 // of, of, generator=torch.Generator().manual_seed(0))
    mask = (scores.argsort(dim=-1).argsort(dim=-1) < keep).view(512, 512)
    chain, payloads = encode(torch.where(mask, 0.3, 0.0), Encoding(mask=mask))
    assert chain[0] == {"codec": "bitmask", "width": of, "kept": 512 * 512 * keep // of}
    assert payloads["mask"].nbytes == pytest.approx(512 * 512 / of * bits / 8, rel=0.01)


def test_pruned_clusters_without_a_zero_entry_by_hand() -> None:
    weight = torch.tensor([[1.0, 0.0, 3.0, 0.0]])
    tensors = {"indices": torch.tensor([0, 0, 1, 1]), "codebook": torch.tensor([[1.0], [3.0]])}
    encoding = Encoding(values={"codec": "codebook"}, tensors=tensors, mask=weight != 0)
    chain, payloads = encode(weight, encoding)
    assert chain == [
        {"codec": "codebook", "block_size": 1, "entries": 2},
        {"codec": "bitmask", "kept": 2},
        {"codec": "pack", "bits": 1},
    ]
    assert payloads["indices"].tolist() == [0b10]
    assert payloads["mask"].tolist() == [0b0101]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kind_comes_back(kind: str, shape: tuple[int, ...], encode_as: EncodeAs) -> None:
    weight = torch.randn(shape)
    chain, payloads = encode(weight, encode_as(kind, weight))
    assert torch.equal(torch.from_numpy(decode(chain, payloads, shape)), weight)
    expected = Chain(chain, shape).payloads
    assert payloads.keys() <= expected.keys()
    shrunk = (chain or [{}])[-1].get("of", {})
    for name, payload in payloads.items():
        if name not in shrunk and not expected[name].symbols:
            assert tuple(payload.shape) == expected[name].shape


def test_entropy_coding_is_kept_only_where_it_pays(encode_as: EncodeAs) -> None:
    uniform = torch.randint(-8, 8, (64, 64)).float() + 0.5
    values = {"codec": "quantize", "bits": 4, "group_size": 64, "grid": "midrise"}
    encoding = Encoding(values=values, tensors={"scale": torch.rand(64, 1)})
    chain, payloads = encode(uniform * encoding.tensors["scale"], encoding)
    assert codecs(chain) == ["quantize", "pack", "planes"]
    assert chain[-1] == {"codec": "planes", "of": {"scale": "float32"}}
    assert payloads["codes"].nbytes == 64 * 64 // 2
    skewed = torch.where(torch.rand(64, 64) < 0.95, 1.5, uniform)
    chain, payloads = encode(skewed * encoding.tensors["scale"], encoding)
    assert codecs(chain) == ["quantize", "ans", "planes"]
    assert payloads["codes"].nbytes < 64 * 64 // 14  # zstd: a seventh


def test_columns_of_their_own_magnitude_are_coded_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(192, 192, generator=generator) * torch.rand(192, generator=generator) * 2
    weight = weight.round().clamp(-7, 7)
    values = {"codec": "quantize", "bits": 4, "group_size": 192}
    chain, payloads = encode(weight, Encoding(values=values, tensors={"scale": torch.ones(192, 1)}))
    assert chain[1:] == [{"codec": "ans", "of": ["codes"]}, {"codec": "planes", "of": ANY}]
    one_table = ans.encode_symbols((weight.flatten() + 8).int().numpy())
    assert payloads["codes"].nbytes < 0.93 * one_table.nbytes
    assert payloads["scale"].nbytes == 4


def test_repeats_go_to_planes() -> None:
    pattern = torch.randint(-8, 8, (1, 64), generator=torch.Generator().manual_seed(0)) + 0.5
    values = {"codec": "quantize", "bits": 4, "group_size": 64, "grid": "midrise"}
    encoding = Encoding(values=values, tensors={"scale": torch.ones(64, 1)})
    chain, _ = encode(pattern.expand(64, 64).contiguous(), encoding)
    assert codecs(chain) == ["quantize", "pack", "planes"]


def test_a_sparse_mask_costs_less_than_a_bit_per_weight(encode_as: EncodeAs) -> None:
    weight = torch.randn(128, 128)
    encoding = encode_as("int8", weight)
    encoding.mask = torch.rand(128, 128) < 0.03
    weight *= encoding.mask
    _, payloads = encode(weight, encoding)
    # Mask, some 490 codes and 256 bytes of scales, where the mask alone has 2,048 bytes of bits.
    assert sum(p.nbytes for p in payloads.values()) < 1400


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(
            values={"codec": "quantize", "bits": 2, "group_size": 2},
            tensors={"scale": torch.ones(2, 1)},
        ),
        Encoding(
            values={"codec": "codebook"},
            tensors={"indices": torch.zeros(4, dtype=torch.int64), "codebook": torch.ones(1, 1)},
        ),
    ],
)
def test_an_encoding_that_does_not_give_back_the_weight_is_our_bug(encoding: Encoding) -> None:
    with pytest.raises(AssertionError, match="does not give back the weight"):
        encode(torch.tensor([[0.1, 1.0], [2.0, 3.0]]), encoding)


GRID = {"codec": "quantize", "bits": 4, "group_size": 4}
INDICES = {"indices": torch.zeros(5, dtype=torch.int64), "codebook": torch.zeros(4, 1)}


@pytest.mark.parametrize(
    ("encoding", "given"),
    [
        (Encoding(values=GRID, tensors={"scale": torch.ones(3, 2)}), "scale (3, 2) float32"),
        (Encoding(values=GRID, tensors={"scale": torch.ones(4, 2, 1)}), "scale (4, 2, 1) float32"),
        (Encoding(values=GRID), "(no 'scale')"),
        (Encoding(values=GRID | {"group_size": 3}, tensors={"scale": torch.ones(4, 2)}), "'group"),
        (Encoding(values={"codec": "nope"}), "'nope'"),
        (Encoding(values={"codec": "codebook"}), "(no 'codebook')"),
        (Encoding(values={"codec": "codebook"}, tensors=INDICES), "indices (5,) int64, codebook"),
        (Encoding(mask=torch.ones(4, 3, dtype=torch.bool)), "mask (4, 3) bool"),
        (Encoding(mask=torch.ones(4, 8)), "mask (4, 8) float32"),
    ],
)
def test_what_a_method_of_ones_own_gets_wrong_is_one_sentence(
    encoding: Encoding, given: str
) -> None:
    encoding.steps = ["own"]
    with pytest.raises(
        ValueError, match=r"^step own: finalize says that fc\.weight \(4, 8\)"
    ) as said:
        encode(torch.zeros(4, 8), encoding, name="fc.weight")
    assert given in str(said.value)
    assert "\n" not in str(said.value)
    assert str(said.value).endswith("return an Encoding as docs/format.md describes the codec")


def test_a_mask_that_drops_more_than_zeros_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="outside its mask is not zero"):
        encode(torch.ones(2, 2), Encoding(mask=torch.tensor([[True, False], [True, True]])))


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([{"codec": "pickle"}], "are not some of"),
        ([{"codec": "pack", "bits": 4}, {"codec": "bitmask", "kept": 1}], "are not some of"),
        ([{"codec": "bitmask", "kept": 1}, {"codec": "bitmask", "kept": 1}], "are not some of"),
        ([{"codec": "pack", "bits": 4}], "pack floats"),
        ([{"codec": "quantize", "bits": 4, "group_size": 2}], "leave integers unpacked"),
        ([{"codec": "planes"}], "does not say of which"),
        ([{"codec": "bitmask", "kept": 9}], "kept=9, not in 0…8"),
        ([{"codec": "bitmask", "kept": True}], "kept=True"),
        (
            [{"codec": "quantize", "bits": 4, "group_size": 3}, {"codec": "pack", "bits": 4}],
            "group_size=3, no divisor of 4 columns",
        ),
        (
            [{"codec": "quantize", "bits": 4, "group_size": 4}, {"codec": "pack", "bits": 17}],
            "bits=17, not in 1…16",
        ),
        (
            [
                {"codec": "codebook", "block_size": 8, "entries": 2},
                {"codec": "pack", "bits": 1},
            ],
            "block_size=8, not in 1…4",
        ),
    ],
)
def test_a_foreign_chain_is_refused(chain: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain(chain, (2, 4))
