"""`imagenet` and `imagenet100`: ILSVRC 2012 as folders of classes, all of them or the hundred of Tian et al.

imagenet100.txt lists the classes of "Contrastive Multiview Coding" (ECCV 2020), which publications on ImageNet-100 share.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mixfast.data.errors import DataError
from mixfast.data.paths import contents, images_below, subfolders
from mixfast.data.published import STATISTICS
from mixfast.data.source import RawSplit, check_split, split_of_files

CLASSES = 1000
# Where ImageNet is looked for: ROOT itself, and these folders of it.
FOLDERS = ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")


@dataclass(frozen=True)
class ImageNet:
    """train/WNID/*.JPEG and val/WNID/*.JPEG, photographs of all sizes. "test" is the validation split: the official test
    split has no labels. Labels follow the sorted WordNet ids, which are the names of the classes.

    ``listed``: a file of this package that lists some of the classes; others in the folders are then left out.
    """

    name: str
    listed: str | None = None

    def split_names(self, root: Path) -> tuple[str, ...]:
        return ("train", "test", "val")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location, actual = self._locate(root), "train" if split == "train" else "val"
        wnids = self._wnids(location / actual)
        images: list[str] = []
        labels: list[int] = []
        for label, wnid in enumerate(wnids):
            of_class = images_below(location / actual / wnid)
            images += of_class
            labels += [label] * len(of_class)
        return split_of_files(
            name=self.name,
            split=actual,
            location=location,
            classes=wnids,
            images=images,
            labels=labels,
            statistics=STATISTICS[self.name],
        )

    def _locate(self, root: Path) -> Path:
        places = [root / self.name, *(root / folder for folder in FOLDERS if folder != self.name), root]
        for place in places:
            if any(name.startswith("n") and name[1:].isdecimal() for name in subfolders(place / "train")):
                return place
        raise FileNotFoundError(
            f"{self.name}: no train/WNID/*.JPEG in {', '.join(map(str, places))}; {contents(root)}. Unpack "
            "ILSVRC2012_img_train.tar there, a folder a class, or name the folder above it with --data or $MIXFAST_DATA"
        )

    def _wnids(self, folder: Path) -> tuple[str, ...]:
        """The classes; all of them are in ``folder``."""
        present = set(subfolders(folder))
        if not present:
            raise DataError(
                f"{self.name}: {folder} has no folder a class, as train has: sort its images into folders by their classes "
                f"(ILSVRC2012_validation_ground_truth.txt); {contents(folder)}"
            )
        if self.listed is None:
            if len(present) != CLASSES:
                raise DataError(
                    f"{self.name}: {folder} has {len(present)} classes, expected {CLASSES}; for some of them, use "
                    f"folder:{folder.parent}"
                )
            return tuple(sorted(present))
        wanted = listed_classes(self.listed)
        missing = [wnid for wnid in wanted if wnid not in present]
        if missing:
            raise DataError(
                f"{self.name}: {folder} lacks {len(missing)} of {len(wanted)} classes: {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}"
            )
        return wanted


def listed_classes(file: str) -> tuple[str, ...]:
    """The WordNet ids in a file of this package, sorted."""
    return tuple(sorted(resources.files("mixfast.data").joinpath(file).read_text(encoding="ascii").split()))


IMAGENET = ImageNet("imagenet")
IMAGENET100 = ImageNet("imagenet100", "imagenet100.txt")
