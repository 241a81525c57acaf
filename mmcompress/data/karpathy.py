"""COCO captions and Flickr30k in the splits of Karpathy and Fei-Fei 2015, arXiv:1412.2306.

Their `dataset_coco.json` and `dataset_flickr30k.json` name the split and all captions of each
image. COCO: 113,287 images to train (with `restval`), 5,000 each for val and test; Flickr30k:
29,000, 1,014 and 1,000.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.files import Entry, Files
from mmcompress.data.items import Items
from mmcompress.data.splits import complete
from mmcompress.data.text import check_characters, read_text

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Name in the file → split."""


class Karpathy(PairData):
    """Images with about five captions each, as a Lightning data module.

    Args:
        annotations: `dataset_coco.json`, `dataset_flickr30k.json` or another of their form.
        root: the folder of the images.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    Raises:
        ValueError: no such file, or one of another form.
    """

    remedy = "set data.root to the folder of the images"

    def __init__(
        self,
        *,
        annotations: str,
        root: str,
        augment: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.annotations, self.root = Path(annotations), Path(root)
        self.name = self.annotations.stem.removeprefix("dataset_")
        self.augment = augment

    def build_splits(self) -> dict[str, Items]:
        entries: dict[str, list[Entry]] = {split: [] for split in ("train", "val", "test")}
        for image in self._images():
            try:
                if image["split"] not in SPLITS:
                    raise ValueError(f"has split {image['split']!r}")
                path = self.root / image.get("filepath", "") / image["filename"]
                texts = [sentence["raw"].strip() for sentence in image["sentences"]]
                for text in texts:
                    check_characters(text, f"{image['filename']}")
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                said = f"lacks {error}" if isinstance(error, KeyError) else f"is amiss ({error})"
                raise ValueError(
                    f"data.annotations={str(self.annotations)!r}: an image {said}; give a file of "
                    "Karpathy's form, with filename, split and sentences"
                ) from error
            captions = tuple(text for text in texts if text)
            entries[SPLITS[image["split"]]].append(Entry(path, image["filename"], captions))
        splits: dict[str, Items] = {split: Files(found) for split, found in entries.items()}
        return self.checked(complete(splits, augment=self.augment))

    def _images(self) -> list[Any]:
        try:
            return json.loads(read_text(self.annotations))["images"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"data.annotations={str(self.annotations)!r} cannot be read ({error}): give "
                "dataset_coco.json or dataset_flickr30k.json"
            ) from error
