"""The records that ``mixfast bench`` and ``mixfast flops`` write (``--json``): which there are, and reading one back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BENCH, FLOPS = "mixfast bench", "mixfast flops"
# Of the records that this mixfast writes and reads.
BENCH_VERSION, FLOPS_VERSION = 1, 1


def read_record(path: Path, called: str) -> tuple[str, dict[str, Any]]:
    """Which command wrote the record, ``BENCH`` or ``FLOPS``, and what is in it.

    Args:
        path: of a file. called: what messages call it.

    Raises:
        ValueError: it is no JSON, no record, or one of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{called} is no JSON: {error}") from error
    kind, version, again = _kind_of(record, called)
    if record.get("version") != version:
        raise ValueError(
            f"{called} is a record of version {record.get('version', 0)}, expected {version}: {again} it again"
        )
    return kind, record


def _kind_of(record: Any, called: str) -> tuple[str, int, str]:
    """The command, its records' version, and what it does."""
    if isinstance(record, dict):
        if {"bench", "settings"} <= record.keys():
            return BENCH, BENCH_VERSION, "measure"
        if record.get("kind") == FLOPS:
            return FLOPS, FLOPS_VERSION, "count"
    raise ValueError(f"{called} is no record of {BENCH} (which has bench and settings) or of {FLOPS}")
