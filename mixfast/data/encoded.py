"""Image files that are not decoded yet: files of their own, or members of a tar archive, which is not unpacked."""

from __future__ import annotations

import errno
import io
import os
from typing import NamedTuple


class ArchivedFile(NamedTuple):
    """A member of an uncompressed archive. offset, size: where its content lies, in bytes."""

    archive: str
    member: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


EncodedFile = str | ArchivedFile


def openable(file: EncodedFile) -> str | io.BytesIO:
    """What Pillow can open. Raises OSError."""
    return file if isinstance(file, str) else io.BytesIO(read_bytes(file))


def read_bytes(file: EncodedFile) -> bytes:
    """The content of `file`. Raises OSError."""
    if isinstance(file, str):
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    descriptor = os.open(file.archive, os.O_RDONLY)
    try:
        content = os.pread(descriptor, file.size, file.offset)
    finally:
        os.close(descriptor)
    if len(content) < file.size:
        raise OSError(errno.EIO, "the archive ends before this member does", file.archive)
    return content


def path_of(file: EncodedFile) -> str:
    """The file on the disk that `file` is, or is in."""
    return file if isinstance(file, str) else file.archive
