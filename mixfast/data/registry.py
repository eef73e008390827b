"""Data set names. To add a data set: write its `Source` in a module of its own and list it here."""

from __future__ import annotations

from collections.abc import Callable

from mixfast.data.cifar_c import CIFAR10_C, CIFAR100_C
from mixfast.data.cub200 import Cub200
from mixfast.data.digits import Digits
from mixfast.data.errors import DataError, unknown_name
from mixfast.data.fashion_mnist import FashionMnist
from mixfast.data.file_list import FileList
from mixfast.data.folder import ImageFolder
from mixfast.data.imagenet import IMAGENET, IMAGENET100
from mixfast.data.mnist_m import MnistM
from mixfast.data.shards import Shards
from mixfast.data.source import Source
from mixfast.data.stl10 import STL10
from mixfast.data.tiny_imagenet import TinyImageNet
from mixfast.data.torchvision_sets import CIFAR10, CIFAR100, SVHN

_SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Digits(),
        FashionMnist(),
        CIFAR10,
        CIFAR100,
        SVHN,
        STL10,
        MnistM(),
        TinyImageNet(),
        IMAGENET,
        IMAGENET100,
        Cub200(),
        CIFAR10_C,
        CIFAR100_C,
    )  # fmt: skip
}
_OF_YOUR_OWN: dict[str, Callable[[str], Source]] = {"folder": ImageFolder, "list": FileList, "shards": Shards}


def data_set_names() -> tuple[str, ...]:
    """Every name that `find_source` takes; the last ones stand for any folder."""
    return (*_SOURCES, *(f"{prefix}:DIR" for prefix in _OF_YOUR_OWN))


def is_of_your_own(name: str) -> bool:
    """Whether `name` is a place, such as "folder:DIR", whose images no publication describes."""
    return name.partition(":")[0] in _OF_YOUR_OWN


def find_source(name: str) -> Source:
    """The data set called `name`. Raises DataError that suggests the nearest name if there is none."""
    prefix, colon, directory = name.partition(":")
    if colon and prefix in _OF_YOUR_OWN:
        return _OF_YOUR_OWN[prefix](directory)
    if name not in _SOURCES:
        raise DataError(unknown_name("data.name", name, data_set_names()))
    return _SOURCES[name]
