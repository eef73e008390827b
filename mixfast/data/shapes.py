"""What a network must know of a data set before any image is read: channels, size and classes."""

from __future__ import annotations

from dataclasses import dataclass

from mixfast.data.errors import DataError, unknown_name
from mixfast.data.paths import data_root
from mixfast.data.registry import data_set_names, find_source, is_of_your_own


@dataclass(frozen=True)
class DataShape:
    """channels of an image; image_shape (H, W) in pixels; num_classes K."""

    channels: int
    image_shape: tuple[int, int]
    num_classes: int


# Channels, pixels a side, classes, as published.
_PUBLISHED = {
    "digits": (1, 8, 10),
    "fashion-mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "svhn": (3, 32, 10),
    "stl10": (3, 96, 10),
    "mnist-m": (3, 28, 10),
    "tiny-imagenet": (3, 64, 200),
    "cifar10-c": (3, 32, 10),
    "cifar100-c": (3, 32, 100),
}
# Classes of those whose images have no size of their own.
_CLASSES = {"imagenet": 1000, "imagenet100": 100, "cub200": 200}


def data_shape(
    name: str, *, root: str | None = None, image_size: int | None = None, num_classes: int | None = None
) -> DataShape:
    """The shape of a data set's images, without decoding one: as published, or as one's own lie there.

    Args:
        name: one of ``data_set_names()``; for photographs of all sizes, a folder, list or shards, RGB images are assumed.
        root: the folder that holds data sets, as for ``load_split``; only a folder's classes are looked for.
        image_size: pixels a side to which images are resized; None: the data set's own, which these have not.
        num_classes: K, where the published number, or the folder's, is not what is meant.

    Raises:
        DataError: an unknown name, such images without ``image_size``, or fewer than two classes.
        FileNotFoundError: the folder is not there, and ``num_classes`` is not given.
    """
    if num_classes is not None and num_classes < 2:
        raise DataError(f"num_classes is {num_classes}, expected at least 2")
    if name in _PUBLISHED:
        channels, side, classes = _PUBLISHED[name]
    elif is_of_your_own(name) or name in _CLASSES:
        if image_size is None:
            raise DataError(f"data.image_size is null and data.name is {name}: its images have no size of their own")
        channels, side = 3, image_size
        classes = num_classes or _CLASSES.get(name) or _classes_there(name, root)
    else:
        raise DataError(unknown_name("data.name", name, data_set_names()))
    return DataShape(channels, (image_size or side,) * 2, num_classes or classes)


def _classes_there(name: str, root: str | None) -> int:
    try:
        return len(find_source(name).open("train", data_root(root)).classes)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. Its classes cannot be counted: say how many there are (num_classes, or `mixfast flops --classes K`)"
        ) from error
