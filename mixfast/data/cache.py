"""The decoded cache: one safetensors file per (data set and its place, split, image size).

The file's header holds the fingerprint of what it was decoded from. It is written beside its final name, flushed to
the disk, then renamed, so a reader never sees half a file; a checksum catches what goes wrong later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mixfast.data.errors import CacheWriteError, DataWarning
from mixfast.data.memory import format_bytes, require_memory
from mixfast.data.source import Decoded, DecodeOptions, RawSplit
from mixfast.data.statistics import Statistics

# Raise it when the file's content, or the pixels that decoding gives, change their meaning: older files are rebuilt.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class CacheKey:
    """path: where the decoded split belongs; fingerprint: what a file there must have been decoded from."""

    path: Path
    fingerprint: str
    what: str


@dataclass(frozen=True)
class CacheHeader:
    """What a cache file says about itself without its images being read."""

    statistics: Statistics
    skipped: tuple[str, ...]
    checksum: str


@dataclass(frozen=True)
class CacheEntry:
    """A decoded split and the statistics that its data set is normalised by."""

    decoded: Decoded
    statistics: Statistics


def cache_key(raw: RawSplit, options: DecodeOptions, folder: Path) -> CacheKey:
    """Where in `folder` the cache of `raw` lies, and the fingerprint of its files' names, sizes and times.

    The path does not depend on the fingerprint: a changed data set replaces its old cache instead of leaving it to
    fill the disk. Leaving corrupt files out is not part of either, since the header lists them.
    """
    identity = [raw.name, str(raw.location.resolve()), raw.split, options.image_size]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{raw.name}-{raw.split}").strip("-.")[-80:]
    size = f"-{options.image_size}px" if options.image_size else ""
    statistics = asdict(options.statistics) if options.statistics else None
    content = [FORMAT_VERSION, raw.name, raw.classes, raw.files, options.image_size, statistics]
    path = folder / f"{readable}{size}-{_digest(identity)[:16]}.safetensors"
    return CacheKey(path, _digest(content), f"{raw.name} ({raw.split})")


def load_header(key: CacheKey) -> CacheHeader | None:
    """The header of the cache file, or None, without a word, if there is no valid one."""
    try:
        return _read_header(key)
    except _UNUSABLE:
        return None


def load(key: CacheKey) -> CacheEntry | None:
    """The cached split, read through a memory map into memory of its own; None if there is no valid one.

    Warns (DataWarning) if there is a file but it is stale or corrupt. Raises OutOfMemoryError if it does not fit.
    """
    if not os.path.exists(key.path):
        return None
    try:
        header = _read_header(key)
        require_memory(os.path.getsize(key.path), key.what)
        with safe_open(key.path, framework="pt") as file:
            # Cloned, so that the set neither depends on the file nor waits for the disk in the middle of an epoch.
            images, labels = file.get_tensor("images").clone(), file.get_tensor("labels").clone()
        if header.checksum != _checksum(images, labels):
            raise _UnusableCacheError("its checksum does not fit its content")
    except _UNUSABLE as error:
        warnings.warn(f"{key.what}: the cache {key.path} is not used: {error}", DataWarning, stacklevel=2)
        return None
    return CacheEntry(Decoded(images, labels, header.skipped), header.statistics)


def store(key: CacheKey, entry: CacheEntry) -> None:
    """Writes the cache file, whole or not at all.

    Raises CacheWriteError with the reason, such as a full disk or a folder that cannot be written to.
    """
    decoded = entry.decoded
    metadata = {
        "fingerprint": key.fingerprint,
        "checksum": _checksum(decoded.images, decoded.labels),
        "statistics": json.dumps(asdict(entry.statistics)),
        "skipped": json.dumps(decoded.skipped),
    }
    temporary = key.path.with_name(f".{key.path.name}.{secrets.token_hex(8)}.tmp")
    try:
        key.path.parent.mkdir(parents=True, exist_ok=True)
        _require_disk_space(key.path.parent, decoded.images.numel() + 8 * decoded.labels.numel())
        temporary.touch()
        usual_mode = temporary.stat().st_mode  # safetensors makes files that only their owner can read
        save_file({"images": decoded.images, "labels": decoded.labels}, temporary, metadata)
        temporary.chmod(usual_mode)
        _flush_to_disk(temporary)
        os.replace(temporary, key.path)
    except (OSError, SafetensorError) as error:
        raise CacheWriteError(f"{key.what}: cannot write the decoded cache {key.path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


class _UnusableCacheError(Exception):
    """There is a cache file, but not one to use; the message says why."""


_UNUSABLE = (_UnusableCacheError, SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError)


def _read_header(key: CacheKey) -> CacheHeader:
    with safe_open(key.path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("fingerprint") != key.fingerprint:
        raise _UnusableCacheError("it was made from other files or by another version of mixfast")
    statistics = json.loads(metadata["statistics"])
    return CacheHeader(
        Statistics(tuple(statistics["mean"]), tuple(statistics["std"])),
        tuple(json.loads(metadata["skipped"])),
        metadata["checksum"],
    )


def _digest(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _checksum(*tensors: Tensor) -> str:
    """Sums of the tensors' 64-bit words, modulo 2^64: runs at memory speed and notices any one changed byte."""
    sums = []
    for tensor in tensors:
        octets = tensor.reshape(-1).view(torch.uint8)
        whole_words = octets.numel() // 8 * 8
        words = octets[:whole_words].view(torch.int64)
        sums.append(f"{int(words.sum()):x}+{int(octets[whole_words:].sum()):x}")
    return ",".join(sums)


def _require_disk_space(folder: Path, needed: int) -> None:
    """Better not to start than to fill the disk that other programs, or this run's checkpoints, write to as well."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"it takes {format_bytes(needed)}, the disk has {format_bytes(free)} left")


def _flush_to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
