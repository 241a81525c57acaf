"""All families."""

from mmcompress.testing.zoo import hf, open_clip, own, speech, vlm
from mmcompress.testing.zoo.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in [
        *open_clip.FAMILIES,
        *hf.FAMILIES,
        *vlm.FAMILIES,
        *speech.FAMILIES,
        *own.FAMILIES,
    ]
}
