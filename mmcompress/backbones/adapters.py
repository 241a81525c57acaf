"""The backbones that an artifact may name.

The list is closed: a file chooses from it and never says what is imported. A name stays when its
class moves.
"""

from importlib import import_module

from mmcompress.backbones.base import Backbone

ADAPTERS = {
    "custom": "mmcompress.backbones.custom:Custom",
    "hf": "mmcompress.backbones.hf.two_towers:HF",
    "hf_clip": "mmcompress.backbones.hf.clip:HFClip",
    "hf_generative": "mmcompress.backbones.hf.generative:HFGenerative",
    "hf_speech": "mmcompress.backbones.hf.speech:HFSpeech",
    "hf_text": "mmcompress.backbones.hf.sentence:HFText",
    "hf_vlm": "mmcompress.backbones.hf.vlm:HFVlm",
    "mlp": "mmcompress.backbones.mlp:MLP",
    "open_clip": "mmcompress.backbones.open_clip.backbone:OpenClip",
}
"""`Backbone.adapter` → where its class lies; imported when asked for."""


def find_adapter(name: str) -> type[Backbone]:
    """The class that a manifest calls `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in ADAPTERS:
        raise ValueError(f"adapter={name!r} is no backbone of this mmcompress")
    module, _, kind = ADAPTERS[name].partition(":")
    found: type[Backbone] = getattr(import_module(module), kind)
    return found
