"""Settings that are each fine and make no sense together: what is wrong, why, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from mixfast.config.sections import DataSection, Section

if TYPE_CHECKING:
    from mixfast.config.schema import Config

_MIXED = frozenset({"alpha", "root", "encoders", "encoder_init", "heads", "inference"})
_MIXVIT = frozenset({"alpha", "mask", "tokens", "inference"})
METHOD_KEYS: dict[str, frozenset[str]] = {
    "single": frozenset(),
    "mimo": frozenset({"inference"}),
    "linear-mixmo": _MIXED,
    "cut-mixmo": _MIXED | {"mask", "probability", "anneal"},
    "mixshare": _MIXED - {"inference"} | {"mask", "probability", "unmix_fraction", "fade_epochs"},
    "mixvit-embedding": _MIXVIT | {"place"},
    "mixvit-encoding": _MIXVIT | {"place"},
    "mixvit-unattributed": _MIXVIT,
}
"""Which keys of the method section each method reads, besides name and num_inputs."""

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


def contradictions(config: Config) -> Iterator[str]:
    """One line for each combination of settings that cannot work or has no effect, with a remedy."""
    yield from _batches(config)
    yield from _method(config)
    yield from _variants(config)
    yield from _augmentation(config)
    yield from _regions(config.data)
    yield from _optimizer(config)
    yield from _schedule(config)
    yield from _run(config)


def _unused(section: Section, prefix: str, keys: Collection[str], because: str) -> Iterator[str]:
    """Keys that were changed from their default where they do nothing."""
    for key in type(section).model_fields:
        value, default = getattr(section, key), type(section).model_fields[key].default
        if key in keys and value != default:
            yield f"{prefix}.{key} is {value}, which has no effect {because}: leave it at {'null' if default is None else default}"


def _batches(config: Config) -> Iterator[str]:
    data, batch_size = config.data, config.training.batch_size
    if batch_size % data.repetition:
        below = batch_size // data.repetition * data.repetition
        nearest = f"{below} or {below + data.repetition}" if below else f"{data.repetition}"
        yield (
            f"training.batch_size is {batch_size} and data.repetition is {data.repetition}: a batch holds each image "
            f"data.repetition times, so it must divide the batch size; the nearest batch size is {nearest}"
        )
    distinct = batch_size // data.repetition
    if distinct % data.groups:
        yield (
            f"data.groups is {data.groups} and a batch holds {distinct} distinct images (training.batch_size / "
            "data.repetition): groups are equally large; set data.groups to a divisor of that"
        )
    if batch_size % config.training.accumulation:
        yield (
            f"training.accumulation is {config.training.accumulation} and training.batch_size is {batch_size}: the parts of a "
            "batch are equally large; set training.accumulation to a divisor of that"
        )
    yield from _partners_in_parts(config)
    if data.source == "torch":
        yield from _unused(data, "data", {"decoder"}, "with data.source=torch, which decodes by Pillow")
    if config.method.num_inputs == 1:
        if config.msda.kind != "manifold-mixup":
            yield from _unused(data, "data", {"groups"}, "with method.num_inputs=1, which pairs no images")
        if data.input_repetition > 0:
            yield (
                f"data.input_repetition is {data.input_repetition} and method.num_inputs is 1: there is no second "
                "input to repeat an image in; set data.input_repetition=0"
            )
        if data.repetition == 1:
            yield from _unused(data, "data", {"views"}, "where an image stands in a batch only once")


def _partners_in_parts(config: Config) -> Iterator[str]:
    accumulation, groups = config.training.accumulation, config.data.groups
    if config.msda.kind == "manifold-mixup" and groups % accumulation:
        yield (
            f"msda.kind is manifold-mixup, training.accumulation is {accumulation} and data.groups is {groups}: the features "
            "of a sample and its partner are mixed in one pass, so a part must hold whole groups; set data.groups to a "
            "multiple of training.accumulation"
        )


def _method(config: Config) -> Iterator[str]:
    method = config.method
    if method.name == "single" and method.num_inputs > 1:
        yield (
            f"method.name is single and method.num_inputs is {method.num_inputs}: the plain network takes one image; "
            "set method.num_inputs=1 or choose another method, such as method.name=cut-mixmo"
        )
    if method.name != "single" and method.num_inputs == 1:
        yield (
            f"method.name is {method.name} and method.num_inputs is 1: there is nothing to mix; set "
            "method.num_inputs=2, or method.name=single for the plain network"
        )
    has_no_effect = set(type(method).model_fields) - {"name", "num_inputs"} - METHOD_KEYS[method.name]
    yield from _unused(method, "method", has_no_effect, f"with method.name={method.name}")


def _variants(config: Config) -> Iterator[str]:
    """Variants of a method that exclude each other."""
    method = config.method
    mixes_two = method.name.startswith("mixvit")  # of its inputs, however many there are
    if method.mask != "rectangle" and method.num_inputs > 2 and not mixes_two:
        yield (
            f"method.mask is {method.mask} and method.num_inputs is {method.num_inputs}: only rectangles are defined "
            "for more than two inputs (eq. A.4); set method.mask=rectangle or method.num_inputs=2"
        )
    if method.heads in ("random", "by-ratio") and method.num_inputs > 2:
        yield (
            f"method.heads is {method.heads} and method.num_inputs is {method.num_inputs}: it is defined for two "
            "inputs (Table 3.4); set method.heads=per-input or method.num_inputs=2"
        )
    if method.name == "mixshare" and method.heads != "per-input":
        yield (
            f"method.heads is {method.heads} and method.name is mixshare: unmixing gives each input features of "
            "its own, and its own classifier must read them; set method.heads=per-input"
        )
    if method.name == "mixshare" and method.probability != 1:
        yield (
            f"method.probability is {method.probability} and method.name is mixshare: unmixing needs a mask in "
            "every batch (thesis A.6.1); set method.probability=1"
        )
    if method.encoders == "shared":
        yield from _unused(method, "method", {"encoder_init"}, "with method.encoders=shared")
    if method.heads == "shared":
        yield from _unused(method, "method", {"root"}, "with method.heads=shared, whose labels stay in proportion")
    if method.inference in ("alternating", "single") and not method.name.startswith("mixvit"):
        yield (
            f"method.inference is {method.inference} and method.name is {method.name}: it attributes tokens to "
            "subnetworks, which mixvit does; set method.inference=sum or separate"
        )
    if method.tokens == "all" and method.inference not in (None, "separate"):
        yield (
            f"method.inference is {method.inference} and method.tokens is all: with all tokens there is one way, every "
            "slot shows the image; set method.inference=null"
        )
    if method.tokens == "all":
        yield from _unused(method, "method", {"alpha", "mask"}, "with method.tokens=all, which mixes nothing")
    if method.fade_epochs > config.schedule.epochs:
        yield (
            f"method.fade_epochs is {method.fade_epochs} and schedule.epochs is {config.schedule.epochs}: training "
            "would end with features still unmixed, which inference never does; set method.fade_epochs to at most "
            f"{config.schedule.epochs}"
        )


def _augmentation(config: Config) -> Iterator[str]:
    data, msda = config.data, config.msda
    whole = (
        ("data.augmix", str(data.augmix).lower(), "false"),
        ("data.autoaugment", data.autoaugment, "none"),
        ("data.randaugment", str(data.randaugment), "0"),
    )
    given = [(name, value, off) for name, value, off in whole if value != off]
    if len(given) > 1:
        yield (
            f"{' and '.join(f'{name} is {value}' for name, value, _ in given)}: each is a whole augmentation of its own; set "
            f"{' or '.join(f'{name}={off}' for name, _, off in given)}"
        )
    yield from _unused(
        data, "data", set() if data.randaugment else {"randaugment_magnitude"}, "with data.randaugment=0"
    )
    has_no_effect = {"alpha", "probability"} if msda.kind == "none" else set()
    has_no_effect |= {"mixup_alpha"} if msda.kind != "cutmix-mixup" else set()
    yield from _unused(msda, "msda", has_no_effect, f"with msda.kind={msda.kind}")
    if config.msda.kind == "manifold-mixup" and config.method.name != "single":
        yield (
            f"msda.kind is manifold-mixup and method.name is {config.method.name}: features that already hold several "
            "inputs have no labels to interpolate; set msda.kind=mixup or cutmix (in pixels), or method.name=single"
        )


def _regions(data: DataSection) -> Iterator[str]:
    """Random-resized crop."""
    if data.crop_area is None:
        yield from _unused(data, "data", {"stored_size", "regions"}, "without data.crop_area")
        return
    least, greatest = data.crop_area
    if not 0 < least <= greatest <= 1:
        yield (
            f"data.crop_area is {list(data.crop_area)}, expected two shares of an image's area, both above 0 and at most 1, "
            "the smaller one first; 0.08 and 1 are usual"
        )
    if data.pad > 0:
        yield f"data.pad is {data.pad} and data.crop_area is {list(data.crop_area)}: each crops by itself; set data.pad=0"
    if data.regions == "files":
        yield from _regions_of_files(data)
    elif data.stored_size is not None and data.stored_size < (data.image_size or math.inf):
        yield (
            f"data.stored_size is {data.stored_size} and data.image_size is {data.image_size or 'null'}: regions are cut out "
            "of images that are stored larger than they are shown; set data.image_size to at most data.stored_size, or "
            "data.stored_size=null"
        )


def _regions_of_files(data: DataSection) -> Iterator[str]:
    yield from _unused(data, "data", {"stored_size"}, "with data.regions=files, which stores no image")
    if data.source == "resident":
        yield (
            "data.regions is files and data.source is resident: what is in memory was decoded before, whole; set "
            "data.regions=images, or data.source=dali or torch"
        )
    if data.image_size is None:
        yield (
            "data.regions is files and data.image_size is null: images that already have the size of the views have no more "
            "pixels in their files; set data.image_size, or data.regions=images"
        )


def _optimizer(config: Config) -> Iterator[str]:
    optimizer = config.optimizer
    has_no_effect = {"betas"} if optimizer.name == "sgd" else {"momentum", "nesterov"}
    yield from _unused(optimizer, "optimizer", has_no_effect, f"with optimizer.name={optimizer.name}")
    if optimizer.lr_scaling == "none":
        yield from _unused(optimizer, "optimizer", {"lr_batch"}, "with optimizer.lr_scaling=none")
    if optimizer.name == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        yield "optimizer.nesterov is true and optimizer.momentum is 0: set optimizer.nesterov=false, or a momentum"
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        yield f"optimizer.betas is {list(optimizer.betas)}, expected two numbers of at least 0 and below 1"
    if optimizer.implementation == "apex" and config.training.device.split(":")[0] not in ("auto", "cuda"):
        yield (
            f"optimizer.implementation is apex and training.device is {config.training.device}: apex has CUDA kernels "
            "only; set optimizer.implementation=torch"
        )


def _schedule(config: Config) -> Iterator[str]:
    schedule = config.schedule
    epochs, drops = schedule.epochs, schedule.decay_epochs
    if schedule.warmup_epochs > epochs:
        yield (
            f"schedule.warmup_epochs is {schedule.warmup_epochs} and schedule.epochs is {epochs}: the learning rate "
            f"would never be reached; set schedule.warmup_epochs to at most {epochs}"
        )
    if list(drops) != sorted(set(drops)):
        yield f"schedule.decay_epochs is {list(drops)}, expected increasing numbers of epochs, none twice"
    elif drops and not 1 <= drops[0] <= drops[-1] < epochs:
        yield (
            f"schedule.decay_epochs is {list(drops)} and schedule.epochs is {epochs}: a drop after fewer than 1 or "
            f"after all epochs changes nothing; set schedule.decay_epochs={_scaled_drops(drops, epochs)} or []"
        )
    if not drops:
        yield from _unused(schedule, "schedule", {"decay"}, "without schedule.decay_epochs")


def _scaled_drops(drops: tuple[int, ...], epochs: int) -> list[int]:
    """The same drops, closer together: the last one at three quarters of the epochs, as for CIFAR."""
    scaled = {round(0.75 * epochs * drop / drops[-1]) for drop in drops} if drops[-1] > 0 else set()
    return sorted(drop for drop in scaled if 1 <= drop < epochs)


def _run(config: Config) -> Iterator[str]:
    kind, colon, number = config.training.device.partition(":")
    if not (config.training.device == "auto" or kind in DEVICE_TYPES and (number.isdecimal() or not colon)):
        yield f"training.device is {config.training.device!r}, expected auto, {', '.join(DEVICE_TYPES)}, or as cuda:0"
    if config.evaluation.select == "validation" and config.data.validation == 0:
        yield (
            "evaluation.select is validation and data.validation is 0: no images are held out to choose the epoch on; "
            "set data.validation=0.1, or evaluation.select=last"
        )
    if config.baseline and config.method.num_inputs == 1:
        yield (
            "baseline is true and method.num_inputs is 1: the network is the plain one already; set baseline=false, or "
            "a method with several inputs"
        )
    if config.method.name in config.beside or len(set(config.beside)) < len(config.beside):
        yield f"beside is {list(config.beside)} and method.name is {config.method.name}: name each method once"
    if "single" in config.beside:
        yield "beside holds single: the plain network beside a method is baseline=true"
    if config.beside and config.ensemble.members > 1:
        yield (
            f"beside is {list(config.beside)} and ensemble.members is {config.ensemble.members}: single networks beside an "
            "ensemble are no like-for-like comparison; set ensemble.members=1"
        )
    if config.baseline and config.ensemble.members > 1:
        yield (
            f"baseline is true and ensemble.members is {config.ensemble.members}: one plain network beside an ensemble "
            "is no like-for-like comparison; set ensemble.members=1, or train the plain ensemble as a run of its own"
        )
