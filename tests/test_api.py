"""`import mmcompress`: what a user calls."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mmcompress as mmc
from mmcompress.compression.quantization.integer import Integer
from mmcompress.data.base import PairData
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.format.reader import read
from mmcompress.testing.zoo.words import COLORS, THINGS

PAIRS = [
    (Image.new("RGB", (32, 32), (60 * i, 250 - 40 * j, 20 * i * j)), f"{color} {thing}")
    for i, color in enumerate(COLORS)
    for j, thing in enumerate(THINGS[:4])
]


def test_a_name_is_imported_when_it_is_used() -> None:
    code = "import sys, mmcompress; dir(mmcompress); print([m for m in sys.modules if m in %r])"
    heavy = ("torch", "numpy", "hydra", "mmcompress.api", "mmcompress.testing")
    done = subprocess.run(
        [sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    """And no folder of ours hides one."""
    found = {name: getattr(mmc, name) for name in mmc.__all__}
    assert {"load", "compress", "export", "evaluate", "backbone", "recipes"} <= found.keys()
    modules = {name for name, value in found.items() if isinstance(value, type(mmc))}
    assert modules == {"testing"}
    for name in found.keys() - modules:
        assert found[name].__doc__, name
        assert not (Path(mmc.__file__).parent / name).exists(), name
        assert not (Path(mmc.__file__).parent / f"{name}.py").exists(), name


def test_compressed_saved_and_loaded(tiny_backbone: mmc.Backbone, tmp_path: Path) -> None:
    """The dense model stays as it is; what is loaded is what was stored."""
    before = copy.deepcopy(tiny_backbone.state_dict())
    small = mmc.compress(tiny_backbone, "int4", group_size=32, role="mlp.*")
    artifact = small.save(tmp_path / "small")
    for key, tensor in tiny_backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    loaded = mmc.load(tmp_path / "small")
    state = artifact.backbone.state_dict()
    assert all(torch.equal(t, state[k]) for k, t in loaded.backbone.state_dict().items())
    assert {weight.name for weight in read(artifact.folder) if weight.chain} == {
        target.name for target in tiny_backbone.targets() if target.role.startswith("mlp.")
    }


def test_calibration_data_may_be_a_list_of_paths(
    tiny_backbone: mmc.Backbone, tmp_path: Path
) -> None:
    paths: list[Any] = []
    for index, (picture, text) in enumerate(PAIRS):
        picture.save(tmp_path / f"{index}.png")
        paths.append((str(tmp_path / f"{index}.png"), text))
    plans = [
        mmc.compress(tiny_backbone, "wanda", data=data, sparsity=0.6) for data in (PAIRS, paths)
    ]
    states = [small.backbone.state_dict() for small in plans]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_recipe_of_your_own(tiny_backbone: mmc.Backbone) -> None:
    recipe = mmc.Recipe({"ints": Integer(bits=5, role="mlp.up")})
    assert mmc.compress(tiny_backbone, recipe).coverage.keys() == {"ints"}
    with pytest.raises(ValueError, match=r"^bits: set it in the Recipe"):
        mmc.compress(tiny_backbone, recipe, bits=4)


def test_settings_of_several_steps(tiny_backbone: mmc.Backbone) -> None:
    both = "^modality: the steps magnitude, int4 all have it; say which: magnitude="
    with pytest.raises(ValueError, match=both):
        mmc.compress(tiny_backbone, "magnitude_int4", modality="text")
    small = mmc.compress(
        tiny_backbone,
        "magnitude_int4",
        group_size=32,
        magnitude={"modality": "text", "schedule": "one_shot"},
    )
    zeros = {
        target.modality: float((parameter == 0).float().mean())
        for target in small.backbone.targets()
        for parameter in [
            getattr(small.backbone.model.get_submodule(target.module), target.parameter)
        ]
        if target.role == "mlp.up"
    }
    assert zeros["text"] > 0.4 > zeros["image"]


@pytest.mark.parametrize(
    ("recipe", "settings", "sentence"),
    [
        ("int5", {}, "there is no compression 'int5'; did you mean"),
        ("int4", {"bit": 3}, "int4 has no setting bit; it has bits, group_size"),
        ("int4", {"bits": 12}, "bits=12"),
        ("none", {"bits": 4}, "bits=4: the recipe none has no step that could have it"),
        ("gptq", {}, "compression needs calibration data for gptq and there are none"),
        ("gptq", {"data": ["cat.jpg"]}, "data[0] is a str and must be a pair of a picture and"),
        ("gptq", {"data": "emoji"}, "there is no data 'emoji'; did you mean openmoji?"),
    ],
)
def test_what_cannot_be_compressed_ends_in_one_sentence(
    tiny_backbone: mmc.Backbone, recipe: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        mmc.compress(tiny_backbone, recipe, **settings)
    assert "\n" not in str(caught.value)


def test_scores_are_those_of_runs(tiny_backbone: mmc.Backbone, tiny_data: PairData) -> None:
    expected = evaluate(tiny_backbone, tiny_data, {"retrieval": Retrieval()}, "test")
    found = mmc.evaluate(tiny_backbone, data=tiny_data, evaluators={"retrieval": Retrieval()})
    assert found == expected
    test = tiny_data.splits["test"]
    pairs = [(item["image"], item["text"]) for item in map(test.read, range(len(test)))]
    assert mmc.evaluate(tiny_backbone, data=pairs, split="any") == expected


def test_what_is_not_stored_is_not_scored(tiny_backbone: mmc.Backbone) -> None:
    small: Any = mmc.compress(tiny_backbone, "float8")
    with pytest.raises(ValueError, match="save it first"):
        mmc.evaluate(small, data=PAIRS)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^runtime='quick' must be one of dense, packed, onnx, openvino$"
    ):
        mmc.load("anywhere", "quick")


def test_a_packed_model_embeds_as_a_dense_one(tiny_backbone: mmc.Backbone, tmp_path: Path) -> None:
    mmc.compress(tiny_backbone, "int4").save(tmp_path / "small")
    dense, packed = (mmc.load(tmp_path / "small", runtime) for runtime in ("dense", "packed"))
    found, expected = packed.embed_texts(["red heart"]), dense.embed_texts(["red heart"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_backbone_by_its_name() -> None:
    small = mmc.backbone("mlp", hidden=[16], classes=3)
    assert [tuple(p.shape) for p in small.parameters()] == [(16, 784), (16,), (3, 16), (3,)]
    with pytest.raises(ValueError, match=r"^mlp has no setting width; it has size, hidden"):
        mmc.backbone("mlp", width=3)
    with pytest.raises(ValueError, match=r"^there is no backbone 'clip'; "):
        mmc.backbone("clip")


def test_a_setting_of_a_backbone_may_be_called_name() -> None:
    small = mmc.backbone("open_clip", name="ViT-B-32", pretrained=None)
    assert small.modalities == ("image", "text")


def test_an_export_to_an_unknown_library() -> None:
    with pytest.raises(ValueError, match=r"^to='gguf' must be one of open_clip, hf, .*, onnx$"):
        mmc.export("anywhere", to="gguf", out="elsewhere")
