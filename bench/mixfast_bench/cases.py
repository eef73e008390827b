"""What is measured, as plain data: the settings of a run of the bench, and the cases of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.models import is_transformer

# As many pixels as CIFAR's training set: too many for a cache to hold.
SYNTHETIC_PIXELS = 50_000 * 32 * 32
CHANNELS = 3

CONVOLUTION_OPTIMIZER = {"name": "sgd", "lr": 0.1, "lr_scaling": "linear", "weight_decay": 6e-4}
TRANSFORMER_OPTIMIZER = {
    "name": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "decay_vectors": False,
    "lr_per_repetition": False,
}


def at_least(argument: str, value: int, least: int) -> None:
    """Raises ValueError, naming the argument, for a number below ``least``."""
    if value < least:
        raise ValueError(f"{argument} is {value}, expected a whole number of at least {least}")


@dataclass(frozen=True)
class Batches:
    """How batches are made, for all contenders alike.

    Attributes:
        batch_size: samples a step; those of the plain network hold one image, those of Cut-MixMo two.
        repetition: b, of Cut-MixMo. The plain network has none.

    Raises:
        ValueError: a number below 1, or a repetition that does not divide the batch size.
    """

    batch_size: int = 64
    repetition: int = 4

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
        at_least("--repetition", self.repetition, 1)
        if self.batch_size % self.repetition:
            raise ValueError(
                f"--repetition is {self.repetition} and --batch-size {self.batch_size}: a batch holds each image that "
                "many times, so it must divide the batch size"
            )


@dataclass(frozen=True)
class Setting:
    """How the steps of all contenders run.

    Attributes:
        amp: mixed precision: off, bfloat16 or float16.
        channels_last: the memory layout of features, of all but the opponent.
        num_inputs: M, of the mixing methods.

    Raises:
        ValueError: fewer than two inputs.
    """

    amp: str = "off"
    channels_last: bool = True
    num_inputs: int = 2

    def __post_init__(self) -> None:
        at_least("--num-inputs", self.num_inputs, 2)


USUAL = Setting()


@dataclass(frozen=True)
class Rounds:
    """How often is measured: ``rounds`` turns of ``runs`` runs for every contender.

    Raises:
        ValueError: a number below 1.
    """

    rounds: int
    runs: int

    def __post_init__(self) -> None:
        at_least("--rounds", self.rounds, 1)
        at_least("--runs", self.runs, 1)


@dataclass(frozen=True)
class DataCase:
    """One way to feed a training: method, pixel mixing, augmentations and views; ``label`` names them all shortly."""

    method: str
    msda: str = "none"
    augmix: bool = False
    autoaugment: str = "none"
    random_erasing: float = 0.0
    views: str = "independent"
    label: str = ""

    @property
    def name(self) -> str:
        """``cut-mixmo + cutmix, shared``: what is done, and the views where there is a choice."""
        augmentations = {
            self.msda: self.msda != "none",
            "augmix": self.augmix,
            "autoaugment": self.autoaugment != "none",
            "erasing": self.random_erasing > 0,
        }
        done = [self.label] if self.label else [name for name, is_done in augmentations.items() if is_done]
        title = " + ".join([self.method, *done])
        return title if self.method == "single" else f"{title}, {self.views}"


SINGLE = DataCase("single")
DATA_CASES = (
    SINGLE,
    *(
        DataCase("cut-mixmo", msda=msda, augmix=augmix, views=views)
        for msda, augmix in (("none", False), ("cutmix", False), ("none", True))
        for views in ("independent", "shared")
    ),
    DataCase("cut-mixmo", autoaugment="cifar"),
    # What vision transformers train with (thesis A.1.5).
    DataCase("cut-mixmo", msda="cutmix-mixup", autoaugment="cifar", random_erasing=0.25, label="vit's"),
)


def training_config(
    case: DataCase,
    batches: Batches,
    *,
    device: torch.device,
    backbone: str = "wrn28-2",
    compiled: bool = False,
    setting: Setting = USUAL,
) -> Config:
    """A run on CIFAR as the thesis has it (METHODS 4 and 7), without the warm-up, which changes no cost.

    A transformer's optimiser and losses are those of thesis A.1.5; its images are cropped and flipped as the others' are,
    and repeated for the plain network too, as batch augmentation has it.
    """
    is_token = is_transformer(backbone)
    plain = case.method == "single"
    values: dict[str, Any] = {
        "data": {
            "name": "bench",
            "pad": 4,
            "flip": True,
            "repetition": 1 if plain and not is_token else batches.repetition,
            "augmix": case.augmix,
            "autoaugment": case.autoaugment,
            "random_erasing": case.random_erasing,
            "views": case.views,
        },
        "model": {"name": backbone},
        "method": {"name": case.method, "num_inputs": 1 if plain else setting.num_inputs},
        "msda": {"kind": case.msda},
        "optimizer": TRANSFORMER_OPTIMIZER if is_token else CONVOLUTION_OPTIMIZER,
        "schedule": {"epochs": 300},
        "training": {
            "batch_size": batches.batch_size,
            "compile": "on" if compiled else "off",
            "amp": setting.amp,
            "channels_last": setting.channels_last,
            "device": str(device),
            "label_smoothing": 0.1 if is_token else 0.0,
        },
    }
    return Config.model_validate(values)


def synthetic_images(
    image_size: int, num_classes: int, device: torch.device, count: int | None = None, channels: int = CHANNELS
) -> ImageSet:
    """Random square images with random labels, always the same ones.

    Args:
        image_size: pixels a side.
        num_classes: K.
        device: where they are put.
        count: how many; by default ``SYNTHETIC_PIXELS`` in all.
        channels: 3 of colour images, 1 of grey ones.

    Raises:
        ValueError: images below 8 pixels a side, or fewer than two classes.
    """
    at_least("--image-size", image_size, 8)
    at_least("--classes", num_classes, 2)
    count = count or max(1, SYNTHETIC_PIXELS // image_size**2)
    generator = torch.Generator().manual_seed(0)
    shape = (count, image_size, image_size, channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    labels = torch.randint(num_classes, (count,), generator=generator)
    classes = tuple(str(label) for label in range(num_classes))
    data = ImageSet(pixels, labels, classes, (0.5,) * channels, (0.25,) * channels, "synthetic", "train")
    return data.to(device)
