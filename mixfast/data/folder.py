"""`folder:DIR`: anyone's images, one folder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixfast.data.errors import DataError
from mixfast.data.labelled import locate
from mixfast.data.paths import contents, images_below, subfolders
from mixfast.data.source import RawSplit, check_split, split_of_files


@dataclass(frozen=True)
class ImageFolder:
    """DIR/{train,test,val}/CLASS/**/IMAGE.

    "test" falls back to val/ where there is no test/. Classes are train/'s folders in sorted order, images of a class
    in sorted order (`paths.images_below`). The training split decides for all: RGB, unless every training image is
    grey; its mean and deviation are computed from its pixels.
    """

    directory: str

    @property
    def name(self) -> str:
        return f"folder:{self.directory}"

    def split_names(self, root: Path) -> tuple[str, ...]:
        return (
            ("train", "test", "val")
            if "val" in subfolders(locate(self.directory, root, "folder"))
            else ("train", "test")
        )

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location = locate(self.directory, root, "folder")
        classes = self._classes(location, "train")
        actual = self._actual_split(location, split)
        if actual != "train":
            self._require_same_classes(classes, self._classes(location, actual), actual)

        images: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            of_class = images_below(location / actual / name)
            if not of_class:
                raise DataError(f"{self.name}: class folder {location / actual / name} holds no images")
            images += of_class
            labels += [label] * len(of_class)
        return split_of_files(
            name=self.name, split=actual, location=location, classes=classes, images=images, labels=labels
        )

    def _actual_split(self, location: Path, split: str) -> str:
        present = subfolders(location)
        for actual in (split, "val") if split == "test" else (split,):
            if actual in present:
                return actual
        wanted = "'test' nor 'val'" if split == "test" else f"{split!r}"
        raise FileNotFoundError(
            f"{self.name} has no folder {wanted}, expected train/ and test/ or val/, each with one folder per class; "
            f"{contents(location)}"
        )

    def _classes(self, location: Path, split: str) -> tuple[str, ...]:
        classes = subfolders(location / self._actual_split(location, split))
        if not classes:
            raise DataError(
                f"{self.name}: expected one folder per class in {location / split}; {contents(location / split)}"
            )
        return tuple(classes)

    def _require_same_classes(self, training: tuple[str, ...], other: tuple[str, ...], split: str) -> None:
        missing, unknown = sorted(set(training) - set(other)), sorted(set(other) - set(training))
        if missing or unknown:
            differences = [
                f"only in {where}: {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}"
                for where, names in (("train", missing), (split, unknown))
                if names
            ]
            raise DataError(f"{self.name}: {split} does not have train's classes ({'; '.join(differences)})")
