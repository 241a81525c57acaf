"""Manifests that would run code, look something up, or take memory for nothing; all signed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save_file

from mmcompress.artifact import bounds
from mmcompress.artifact.bounds import counted
from mmcompress.artifact.folder import Artifact
from mmcompress.artifact.spec import check_spec, without_references
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.sounds import check_features
from mmcompress.cli import inspect
from mmcompress.format import bounds as format_bounds
from mmcompress.format.errors import ArtifactError, one_line
from mmcompress.format.manifest import DEEPEST
from mmcompress.format.reader import file_checksum

Forge = Callable[..., Any]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "artifacts_0_1"
FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
REFERENCES: list[dict[str, Any]] = [
    {"auto_map": {"AutoModel": "code.Model"}},
    {"trust_remote_code": True},
    {"custom_pipelines": {"x": {"impl": "code.Pipeline"}}},
    {"attn_implementation": "owner/repo"},
    {"_attn_implementation": "owner/repo:function"},
    {"_attn_implementation": "flash_attention_2"},
    {"attn_implementation": {"text_config": "owner/repo"}},
    {"quantization_config": {"quant_method": "bitsandbytes"}},
    {"kernel_config": {"RMSNorm": "owner/repo"}},
    {"use_pretrained_backbone": True},
    {"timm_model_name": "hf-hub:owner/repo"},
    {"architecture": "hf_hub:owner/repo"},
    {"backbone": "local-dir:/tmp"},
    {"source": "https://example.org/model"},
    {"bpe_path": "/etc/passwd"},
    {"cache_dir": "~/x"},
    {"subfolder": "../x"},
]


def text_config(forger: Any) -> dict[str, Any]:
    return forger.manifest["spec"]["config"]["text_config"]


def refuse(folder: Path, message: str, seconds: float = 2.0) -> None:
    for read in (Artifact.load, Artifact.read):
        start = time.process_time()
        with pytest.raises(ArtifactError, match=message):
            read(folder)
        assert time.process_time() - start < seconds


@pytest.mark.parametrize("entry", REFERENCES, ids=lambda entry: next(iter(entry)))
def test_references_are_refused_anywhere(entry: dict[str, Any]) -> None:
    for spec in (entry, {"config": entry}, {"config": {"towers": [{"deep": entry}]}}):
        with pytest.raises(ValueError, match=next(iter(entry))):
            check_spec(spec, 1000)


def test_a_spec_that_says_no_or_gives_labels_passes() -> None:
    spec = {
        "name": "local-dir:/home/someone/model",
        "text_config": {
            "auto_map": None,
            "trust_remote_code": False,
            "attn_implementation": "sdpa",
        },
        "id2label": {"0": "http://label", "1": "/m/0dl9sf8"},
        "task_specific_params": {"summarization": {"prefix": "summarize: "}},
    }
    check_spec(spec, 1000)


def test_numbers_that_take_no_memory_pass() -> None:
    spec = {
        "max_position_embeddings": 1_048_576,
        "rope_theta": 10_000_000,
        "vocab_size": 262_144,
        "pad_token_id": 262_143,
        "max_length": 2**31,
        "nb_max_samples": 4_800_000,
        "sampling_rate": 192_000,
    }
    check_spec(spec, 1000)
    for key in ("num_labels", "num_hidden_layers", "depths"):
        with pytest.raises(ValueError, match=f"{key}=1000000000 is no number between"):
            check_spec({key: [10**9] if key == "depths" else 10**9}, 10**12)


def test_references_are_left_out_when_an_artifact_is_written() -> None:
    spec = {"config": {"auto_map": {"A": "b"}, "hidden_size": 8, "towers": [{"use_kernels": True}]}}
    assert without_references(spec) == {"config": {"hidden_size": 8, "towers": [{}]}}
    check_spec(without_references(spec), 1000)


@pytest.mark.parametrize("entry", REFERENCES, ids=lambda entry: next(iter(entry)))
def test_references_are_refused_before_a_library_sees_them(
    entry: dict[str, Any], forge: Forge
) -> None:
    forger = forge()
    text_config(forger).update(entry)
    refuse(forger.sign(), f"is refused: .*{next(iter(entry))}")


CHILD = """
import builtins, socket, sys
from pathlib import Path

def refuse(*args, **_):
    print("ASKED", args[1:], flush=True)
    raise OSError("blocked")

socket.getaddrinfo = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = refuse
builtins.input = lambda *_: print("ASKED the user", flush=True) or "y"
from mmcompress.artifact import bounds
from mmcompress.artifact.folder import Artifact
for folder in sys.argv[1:]:
    try:
        Artifact.load(Path(folder))
        print("loaded", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


def load_elsewhere(*folders: Path) -> list[str]:
    """What a process without a network says of each folder, as a user would start it."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if key not in offline}
    command = [sys.executable, "-c", CHILD, *map(str, folders)]
    done = subprocess.run(
        command, env=environment, input="y\ny\n", capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_loading_uses_no_network() -> None:
    names = ["family_hf_clip", "family_open_clip_vit_bert", "family_open_clip_vit", "family_llava"]
    names += ["family_hf_text_bert", "family_hf_clap", "family_hf_vit_bert"]
    found = load_elsewhere(*(FIXTURES / name / "artifact" for name in names))
    assert found == ["loaded"] * len(names)


@pytest.mark.slow
def test_no_code_of_the_folder_runs(forge: Forge) -> None:
    forger = forge()
    marker = forger.folder / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Model: pass\n"
    (forger.folder / "code.py").write_text(code)
    forger.manifest["assets"]["code.py"] = file_checksum(forger.folder / "code.py")
    Artifact.load(forger.sign())
    text_config(forger)["auto_map"] = {"AutoConfig": "code.Model", "AutoModel": "code.Model"}
    forger.manifest["adapter"] = "hf_text"
    forger.manifest["spec"]["config"]["auto_map"] = {"AutoModel": "code.Model"}
    assert load_elsewhere(forger.sign()) == ["ArtifactError"]
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**6}, "is no number between"),
        ({"num_hidden_layers": 10**5}, "more than 6,0.. modules and parameters"),
        ({"vocab_size": 10**12}, "a tensor of it has 32,000,000,000,000 values"),
        ({"max_position_embeddings": 10**9}, "a tensor of it has"),
        ({"num_labels": 10**9}, "is no number between"),
        ({"hidden_size": 10**5, "num_attention_heads": 1}, "a tensor of it has"),
        ({"return_dict": False}, "changes what the model gives back"),
        ({"torchscript": True}, "changes what the model gives back"),
        ({"hidden_size": 0}, "cannot be built|not those that were stored"),
        ({"hidden_size": -32}, "cannot be built"),
        ({"hidden_act": "x" * 10**6}, "cannot be built"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_configs_that_ask_for_too_much(changes: dict[str, Any], message: str, forge: Forge) -> None:
    forger = forge()
    text_config(forger).update(changes)
    refuse(forger.sign(), message)


def test_a_model_of_more_values_than_any_bytes_stand_for(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No one tensor is too large, and all are right by name and shape."""
    forger = forge()
    text_config(forger).update(vocab_size=2_000_000)
    forger.fit()
    monkeypatch.setattr(format_bounds, "VALUES", 2**25)
    monkeypatch.setattr(format_bounds, "VALUES_PER_BYTE", 100)
    monkeypatch.setattr(bounds.Counter, "_count", lambda *_: None)  # else it is found while built
    refuse(forger.sign(), "model that is too large: its 64,0.* values are more than .* bytes")


def test_filters_of_sounds_are_bounded() -> None:
    with pytest.raises(ValueError, match="ask for more than 4,194,304 values of filters"):
        check_features({"feature_size": 6000, "fft_window_size": 120_000})
    check_features({"feature_size": 128, "fft_window_size": 4096, "nb_frequency_bins": 2049})


def test_tokens_that_would_take_memory_up_to_their_id(forge: Forge) -> None:
    forger = forge()
    file = forger.folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["cat"] = 10**9
    file.write_text(json.dumps(tokenizer))
    forger.manifest["assets"]["tokenizer.json"] = file_checksum(file)
    refuse(forger.sign(), "the tokenizer has the id 1000000000")


@pytest.mark.parametrize("pad_id", [48, 2**31, -1, 2**40])
def test_padding_that_the_model_has_no_embedding_for(pad_id: int, forge: Forge) -> None:
    forger = forge()
    file = forger.folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["padding"]["pad_id"] = pad_id
    file.write_text(json.dumps(tokenizer))
    forger.manifest["assets"]["tokenizer.json"] = file_checksum(file)
    refuse(forger.sign(), "has no embedding|cannot be built")


def test_what_is_built_is_counted_on_any_device() -> None:
    with counted(1000) as counter:
        torch.arange(1000, device="meta")
        torch.ones(50)[:, None].expand(50, 10**9)  # no memory of its own
    assert counter.largest == 1000
    for device in ("meta", "cpu"):
        with (
            pytest.raises(ValueError, match="a tensor of it has 100,000,000,000 values"),
            counted(1000),
        ):
            torch.zeros(10**5, 10**6, device=device)
    column = torch.zeros(10**5, 1)
    with (
        pytest.raises(ValueError, match="a tensor of it has 10,000,000,000 values"),
        counted(1000),
    ):
        _ = column + column.T


def test_a_long_manifest_is_not_read(forge: Forge) -> None:
    folder = forge().folder
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(6 * 10**9)
    refuse(folder, "manifest.json: has 6,000,000,000 bytes")


def test_a_long_header_is_not_read(forge: Forge) -> None:
    forger = forge()
    metadata = {"x": "y" * 2**17}
    save_file(forger.tensors, forger.folder / "model.safetensors", metadata)
    refuse(forger.sign(), "is no valid safetensors file .a header of 131,")


def test_json_that_no_manifest_is(forge: Forge) -> None:
    deep: Any = 0
    for _ in range(DEEPEST):
        deep = [deep]
    forger = forge()
    for value, message in [
        (deep, f"nested more than {DEEPEST} times"),
        (2**63, "does not fit 64 bits"),
        (-(2**63), "does not fit 64 bits"),
        ("\ud800", "surrogates not allowed"),
        ({"\udfff": 1}, "surrogates not allowed"),
    ]:
        forger.manifest["run"]["x"] = value
        refuse(forger.sign(), message)


def test_links_and_names_that_the_system_refuses(forge: Forge, tmp_path: Path) -> None:
    forger = forge()
    forger.manifest["assets"]["x" * 300] = "0" * 64
    refuse(forger.sign(), "is no plain file name")
    (forger.folder / "manifest.json").unlink()
    (forger.folder / "manifest.json").symlink_to("manifest.json")
    refuse(forger.folder, "manifest.json|cannot be read")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    refuse(loop, "is no folder|cannot be read")
    refuse(tmp_path / ("y" * 300), "is no folder|cannot be read")
    refuse(tmp_path / "a\0b", "is no folder|cannot be read")


def test_names_in_an_artifact_are_shown_as_they_are(
    forge: Forge, capsys: pytest.CaptureFixture[str]
) -> None:
    forger = forge({FC1: "int8"})
    forger.own_kind(FC1)["steps"] = ["[bold]x[/nothing]\x1b[31m"]
    inspect(forger.sign(), [])
    shown = capsys.readouterr().out
    assert "[bold]x[/nothing]" in shown
    assert "\x1b[31m" not in shown


def test_messages_are_one_line() -> None:
    assert one_line("a\nb\t\x1b[0m \ud800") == r"a b \x1b[0m \ud800"
    assert len(one_line("x" * 10**6)) < 700
    error = ArtifactError(Path("a\nb"), "holds\nlines")
    assert "\n" not in str(error)


def test_panics_and_missing_libraries_are_artifact_errors(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = forge().folder
    panic = type("PanicException", (BaseException,), {})
    for raised, message in [
        (panic("range end index"), "PanicException: range end index"),
        (ImportError("no detectron2"), "a library is missing .no detectron2.; install it"),
        (MemoryError(), "MemoryError"),
        (RecursionError("depth"), "RecursionError: depth"),
    ]:

        def fail(*_: Any, error: BaseException = raised, **__: Any) -> None:
            raise error

        monkeypatch.setattr(HFClip, "from_spec", fail)
        refuse(folder, message)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HFClip, "from_spec", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Artifact.load(folder)
