"""How image-text models of transformers call their parts: one table for all architectures."""

from collections.abc import Sequence

from mmcompress.backbones.base import Row

TOWER = r"model\.(?:vision_tower|vision_model|visual)\."
PROJECTOR = (
    r"model\.(?:multi_modal_projector|connector|image_newline|"
    r"visual\.merger|visual\.deepstack_merger_list)"
)
LANGUAGE = r"model\.(?:language_model|text_model)\."

PATCH = r"(?:patch_embedding|patch_conv|patch_embed\.proj|patch_embeddings\.projection)"

ROLES: Sequence[Row] = [
    (rf"{PROJECTOR}(?!.*(?:norm|ln_q)).*weight", "image", "proj"),
    *(
        (rf"{tower}.*{name}\.weight", modality, role)
        for tower, modality in [(TOWER, "image"), (LANGUAGE, "text")]
        for name, role in [
            (r"q_proj", "attn.q"),
            (r"k_proj", "attn.k"),
            (r"v_proj", "attn.v"),
            (r"(?:out_proj|o_proj|projection_layer|attn\.proj)", "attn.out"),
            (r"(?:fc1|linear_fc1|up_proj)", "mlp.up"),
            (r"gate_proj", "mlp.gate"),
            (r"(?:fc2|linear_fc2|down_proj)", "mlp.down"),
            (r"embed_tokens", "embed"),
            (r"(?:position_embedding|pos_embed)", "position"),
            (PATCH, "patch"),
        ]
    ),
    (rf"{TOWER}.*position_embeddings", "image", "position"),
    (r"lm_head\.weight", "text", "head"),
]

TOWER_PREFIXES = [
    (rf"{TOWER}|{PROJECTOR}", "image"),
    (rf"{LANGUAGE}|lm_head\.", "text"),
]

PART_PREFIXES = [
    (PROJECTOR, "projector"),
    (TOWER, "vision_tower"),
    (rf"{LANGUAGE}embed_tokens\.", "embeddings"),
    (LANGUAGE, "language_model"),
    (r"lm_head\.", "head"),
]
