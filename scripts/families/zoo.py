"""All families."""

from families import hf, open_clip, own
from families.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family for family in [*open_clip.FAMILIES, *hf.FAMILIES, *own.FAMILIES]
}
