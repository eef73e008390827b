"""Where data and caches live, and what identifies the files that a split is made of."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})

# (path relative to the split's location, size in bytes, modification time in nanoseconds)
FileStamp = tuple[str, int, int]


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """`cache_dir`, else $MIXFAST_CACHE, else `mixfast` in the platform's folder for caches."""
    chosen = cache_dir or os.environ.get("MIXFAST_CACHE")
    return Path(chosen).expanduser() if chosen else _platform_cache_folder() / "mixfast"


def data_root(root: str | Path | None = None) -> Path:
    """`root`, else $MIXFAST_DATA, else `mixfast/data` in the platform's folder for caches."""
    chosen = root or os.environ.get("MIXFAST_DATA")
    return Path(chosen).expanduser() if chosen else _platform_cache_folder() / "mixfast" / "data"


def _platform_cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones left out; empty where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def images_below(folder: Path) -> list[str]:
    """Image files at any depth below `folder`, by suffix, hidden ones left out; sorted within each folder, a folder's
    own files before those of its subfolders, so the order is the same everywhere.

    Plain strings: making a Path of each of a million files takes longer than finding them.
    """
    found: list[str] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        found += [
            os.path.join(parent, name)
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return found


def stamp_files(files: Iterable[str | Path], location: Path) -> tuple[FileStamp, ...]:
    """Name, size and modification time of each of `files`, which lie below `location`: if none of these has changed,
    neither have the decoded images."""
    prefix = os.path.join(location, "")
    stamps = []
    for file in map(os.fspath, files):
        status = os.stat(file)
        stamps.append((file.removeprefix(prefix), status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def contents(folder: Path, most: int = 12) -> str:
    """What is in `folder`, for messages about what is not."""
    if not folder.is_dir():
        return f"{folder} does not exist"
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{folder} holds {', '.join(names[:most]) + more if names else 'nothing'}"
