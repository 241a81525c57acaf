"""What a manifest must not say: names that make a library run code, or look something up.

The libraries that build a model from its spec also fetch weights, kernels and Python code by names
in it. An artifact brings all that it needs, so that such names are refused anywhere in it, before a
library sees them. Numbers are bounded too: a library may count to them while it reads a config.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

REFUSED = {
    "auto_map": "names Python code to run",
    "custom_pipelines": "names Python code to run",
    "trust_remote_code": "asks to run foreign code",
    "quantization_config": "asks for another package",
    "kernel_config": "asks for kernels of the model hub",
    "use_kernels": "asks for kernels of the model hub",
    "use_pretrained_backbone": "asks for weights of the model hub",
}
"""Keys, unless they say no."""

FORMS = {
    "return_dict": True,
    "torchscript": False,
    "is_decoder": False,
    "chunk_size_feed_forward": 0,
}
"""Keys that change what a model gives back, and the only value that an adapter can read."""

ATTENTION = ("eager", "sdpa")
"""Ways to compute it that are the library's own; another name may be looked up."""

LABELS = ("name", "name_or_path", "_name_or_path", "hf_model_name", "hf_tokenizer_name")
"""Keys that say where the dense model came from. Loading looks at none of them."""

TEXTS = ("id2label", "label2id", "task_specific_params")
"""Keys above free text."""

LOOKED_UP = re.compile(
    r"://|^\s*(hf[-_]hub|local[-_]dir)\s*:|^\s*(/|~|\\\\|[A-Za-z]:[\\/])|\.\.[\\/]"
)

LARGE = re.compile(r"max|length|theta|samples|frequency|rate|seed|vocab|_ids?$|_index$|position")
"""Keys whose numbers nobody counts to; tensors of so many values are bounded by `bounds`."""

COUNTABLE, MOST_COUNTABLE = 2**17, 2**20
"""Numbers that may stand anywhere, and in a file of so many bytes."""

LARGEST = 2**53


def check_spec(spec: Any, stored: int) -> None:
    """Refuse a spec, or a step's decisions, before anything is built from it.

    Args:
        spec: JSON.
        stored: bytes of the file with the weights.
    Raises:
        ValueError: a key or value that is not for a manifest.
    """
    for place, value in _walk(spec):
        problem = _problem(place, value, min(max(COUNTABLE, stored), MOST_COUNTABLE))
        if problem:
            raise ValueError(f"{'.'.join(place)}={shown(value)} {problem}")


def without_references(spec: Any) -> Any:
    """A copy of a model's spec without what `check_spec` refuses and the adapter does not need.

    A config from the model hub may still name the code that the model once came with.
    """
    if isinstance(spec, Mapping):
        kept = {k: without_references(v) for k, v in spec.items() if k not in REFUSED}
        return {k: v for k, v in kept.items() if not k.endswith("attn_implementation")}
    return [without_references(value) for value in spec] if isinstance(spec, list) else spec


def shown(value: Any) -> str:
    """A value for a message: in ASCII, on one line, 60 characters at most."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _walk(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in it, containers too, and the keys that lead there. No recursion."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        place, value = waiting.pop()
        if place:
            yield place, value
        if isinstance(value, dict):
            waiting += [((*place, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(place or ("",), inner) for inner in value]


def _problem(place: tuple[str, ...], value: Any, countable: int) -> str | None:
    key = place[-1]
    if key in REFUSED and value:
        return REFUSED[key]
    if key in FORMS and value is not None and value != FORMS[key]:
        return f"changes what the model gives back, and must be {FORMS[key]}"
    if type(value) is int:
        most = LARGEST if LARGE.search(key) else countable
        return None if abs(value) <= most else f"is no number between ±{most:,}"
    if not isinstance(value, str) or key in LABELS or any(name in place for name in TEXTS):
        return None
    if any("_implementation" in name for name in place) and value not in ATTENTION:
        return f"may be looked up, and must be one of {', '.join(ATTENTION)}"
    return "names something outside the artifact" if LOOKED_UP.search(value) else None
