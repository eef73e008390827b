"""What is known beforehand about the published data sets: normalisation, numbers of images, classes."""

from __future__ import annotations

from mixfast.data.statistics import Statistics

# The constants that published results were trained with, which are not always the exact moments of the pixels.
_CIFAR = Statistics((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

STATISTICS: dict[str, Statistics] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": Statistics((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tiny-imagenet": _IMAGENET,
    "imagenet": _IMAGENET,
    "imagenet100": _IMAGENET,
}

# Images per split, by the split's real name.
COUNTS: dict[str, dict[str, int]] = {
    "digits": {"train": 1201, "test": 596},
    "fashion-mnist": {"train": 60_000, "test": 10_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn": {"train": 73_257, "test": 26_032},
    "stl10": {"train": 5_000, "test": 8_000},
    "mnist-m": {"train": 60_000, "test": 10_000},
    "tiny-imagenet": {"train": 100_000, "val": 10_000},
    "imagenet": {"train": 1_281_167, "val": 50_000},
    "imagenet100": {"train": 126_689, "val": 5_000},
    "cub200": {"train": 5_994, "test": 5_794},
    "cifar10-c": {"test": 750_000},
    "cifar100-c": {"test": 750_000},
}


def count_beside_published(name: str, split: str, count: int) -> str:
    """What there is to say about a split of `count` images: nothing, unless another number was published."""
    expected = COUNTS.get(name, {}).get(split)
    return f" (the published set has {expected:,})" if expected not in (None, count) else ""


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()
)

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

# The fifteen corruptions of the benchmark; `CORRUPTIONS_HELD_OUT` are its extra four, meant for tuning.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
CORRUPTIONS_HELD_OUT = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
