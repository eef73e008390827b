"""`cifar10-c` and `cifar100-c`: the CIFAR test sets under corruptions; for evaluation only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixfast.data import published
from mixfast.data.decode import resize_arrays
from mixfast.data.errors import DataError
from mixfast.data.memory import require_memory
from mixfast.data.paths import contents
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, check_split

SEVERITIES = 5


@dataclass(frozen=True)
class CorruptedCifar:
    """The published arrays: CORRUPTION.npy (uint8 [5 * n, 32, 32, 3], severity 1 first) and labels.npy [5 * n].

    Split "test" is the benchmark: its fifteen corruptions, one after the other, all severities. "fog" is one
    corruption, "fog/3" one severity of it (1..5). They lie in ROOT itself, ROOT/`folder` or ROOT/`name`. Not cached:
    the files already hold decoded pixels.
    """

    name: str
    folder: str
    clean: str
    classes: tuple[str, ...]

    def split_names(self, root: Path) -> tuple[str, ...]:
        """("test", every corruption whose file is there); each corruption may be followed by "/1" to "/5"."""
        folder = self._locate(root)
        known = (*published.CORRUPTIONS, *published.CORRUPTIONS_HELD_OUT)
        return ("test", *(name for name in known if (folder / f"{name}.npy").is_file()))

    def open(self, split: str, root: Path) -> RawSplit:
        if split == "train":
            raise DataError(f"{self.name} is for evaluation only and has no split 'train'; train on {self.clean}")
        folder = self._locate(root)
        corruption, _, severity = split.partition("/")
        check_split(self.name, corruption, self.split_names(root))
        allowed = [str(number) for number in range(1, SEVERITIES + 1)]
        if "/" in split and (corruption == "test" or severity not in allowed):
            raise DataError(f"{self.name}: split is {split!r}, expected CORRUPTION/SEVERITY, severity 1..{SEVERITIES}")
        corruptions = published.CORRUPTIONS if corruption == "test" else (corruption,)
        missing = [name for name in corruptions if not (folder / f"{name}.npy").is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.name}: 'test' is all {len(corruptions)} corruptions, and {folder} lacks {', '.join(missing)}; "
                "ask for single ones by their names as splits"
            )

        def decode(options: DecodeOptions) -> Decoded:
            images, labels = self._read(folder, corruptions, int(severity) if severity else None)
            pixels = resize_arrays(images, options.image_size, f"{self.name} ({split})")
            return Decoded(pixels, torch.from_numpy(labels))

        statistics = published.STATISTICS[self.clean]
        return RawSplit(self.name, split, folder, self.classes, files=(), statistics=statistics, decode=decode)

    def _locate(self, root: Path) -> Path:
        for folder in (root, root / self.folder, root / self.name):
            if (folder / "labels.npy").is_file():
                return folder
        raise FileNotFoundError(
            f"{self.name}: no labels.npy in {root}, {root / self.folder} or {root / self.name}; {contents(root)}. "
            f"Unpack {self.folder}.tar there, or name the folder that has it with --data or $MIXFAST_DATA"
        )

    def _read(self, folder: Path, corruptions: tuple[str, ...], severity: int | None) -> tuple[np.ndarray, np.ndarray]:
        labels = _load(folder / "labels.npy").astype(np.int64)
        arrays = [_load(folder / f"{name}.npy") for name in corruptions]
        for name, array in zip(corruptions, arrays, strict=True):
            if array.dtype != np.uint8 or array.shape != (len(labels), 32, 32, 3) or len(labels) % SEVERITIES:
                raise DataError(
                    f"{folder / name}.npy: expected uint8 [N, 32, 32, 3] with N = {len(labels)}, the number of labels, "
                    f"a multiple of {SEVERITIES}; got {array.dtype} {list(array.shape)}"
                )
        if severity is not None:
            size = len(labels) // SEVERITIES
            rows = slice((severity - 1) * size, severity * size)
            labels, arrays = labels[rows], [array[rows] for array in arrays]
        require_memory(sum(array.nbytes for array in arrays), f"{self.name}, {len(corruptions)} corruptions,")
        return np.concatenate(arrays), np.tile(labels, len(arrays))


def _load(file: Path) -> np.ndarray:
    """The array in `file`, mapped, not read."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{file}: not a whole NumPy array file: {error}") from error


CIFAR10_C = CorruptedCifar("cifar10-c", "CIFAR-10-C", "cifar10", published.CIFAR10_CLASSES)
CIFAR100_C = CorruptedCifar("cifar100-c", "CIFAR-100-C", "cifar100", published.CIFAR100_CLASSES)
