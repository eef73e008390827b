"""A record of ``mixfast bench`` beside an earlier one: what changed beyond noise.

Compared are ratios, never times: a ratio was taken within each round, so that what slows a whole machine down has left it. A
ratio changed when the confidence intervals of its two medians do not overlap and the medians differ by more than two
runs of the same code do.

An operator's time is in many ratios: a row (a shape and a pass) has one to each opponent. One that changed alone is an opponent's
doing, or chance. So a row changed when all of its ratios say so, by much; and an operator changed, by less, when the median over
its rows of the median over a row's ratios says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from mixfast.records import BENCH, read_record

# The smallest share by which a median must differ. Operators take microseconds, and where their memory lies matters: less for
# all rows of one together.
LEAST, LEAST_OF_OPERATORS, LEAST_OF_ROWS = 0.03, 0.06, 0.12
# Settings that change how well something is known, not what is measured.
FREE_SETTINGS = ("rounds", "runs", "processes")


@dataclass(frozen=True)
class Found:
    """A ratio in a record. label: where it stands; operator, row: that it is of, or empty."""

    label: str
    operator: str
    row: str
    median: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Change:
    """before, after: of the ratio, or of an operator's time beside its opponents'; worse: whether mixfast became slower."""

    label: str
    before: float
    after: float
    worse: bool


def load_record(path: Path, what: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of an earlier ``mixfast bench`` of the same things.

    Args:
        path: of the file. what: the bench. settings: those of the run that it is compared with.

    Raises:
        ValueError: the file is not there, no record, of another version or bench, or was made with other settings.
    """
    if not path.is_file():
        raise ValueError(f"--against is {path}, expected a record that mixfast bench wrote (--json)")
    kind, record = read_record(path, f"--against {path}")
    if kind != BENCH:
        raise ValueError(f"--against {path} is a record of {kind}, expected one of {BENCH}")
    if record["bench"] != what:
        raise ValueError(f"--against {path} is a record of bench {record['bench']}, expected one of bench {what}")
    names = {*settings, *record["settings"]}.difference(FREE_SETTINGS)
    other = [
        f"{name} {record['settings'].get(name)} there, {settings.get(name)} here"
        for name in sorted(names)
        if record["settings"].get(name) != settings.get(name)
    ]
    if other:
        raise ValueError(f"--against {path} was measured with other settings: {'; '.join(other)}")
    return record


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """What changed beyond noise between two records of the same bench."""
    earlier = {found.label: found for found in ratios(before)}
    pairs = [(earlier[found.label], found) for found in ratios(after) if found.label in earlier]
    result = [_change(old, new) for old, new in pairs if not new.row and abs(_factor(old, new) - 1) > LEAST]
    of_operators: dict[str, dict[str, list[tuple[Found, Found]]]] = {}
    for old, new in pairs:
        if new.row:
            of_operators.setdefault(new.operator, {}).setdefault(new.row, []).append((old, new))
    for operator, rows in of_operators.items():
        result += _changes_of(operator, rows)
    return result


def _changes_of(operator: str, rows: dict[str, list[tuple[Found, Found]]]) -> list[Change]:
    """Of an operator and its rows."""
    factors = {row: [_factor(old, new) for old, new in pairs] for row, pairs in rows.items()}
    found = []
    time = 1 / median(median(each) for each in factors.values())
    if abs(time - 1) > LEAST_OF_OPERATORS:
        found.append(Change(f"{operator}: time beside its opponents'", 1.0, time, time > 1))
    for row, pairs in rows.items():
        least, most = min(factors[row]), max(factors[row])
        if most < 1 - LEAST_OF_ROWS or least > 1 + LEAST_OF_ROWS:
            found += [_change(old, new) for old, new in pairs]
    return found


def report(before: dict[str, Any], after: dict[str, Any], path: Path, console: Console) -> bool:
    """Says what changed; whether anything became worse."""
    found = changes(before, after)
    machines = [record["machine"]["device_name"] for record in (before, after)]
    if machines[0] != machines[1]:
        console.print(f"{path} is of another machine: {machines[0]}", style="yellow", highlight=False)
    if not found:
        console.print(f"against {path}: nothing changed beyond noise", highlight=False)
        return False
    table = Table("against " + str(path), "before", "after", "", box=None, pad_edge=False)
    for change in found:
        table.add_row(
            change.label, f"{change.before:.3g}", f"{change.after:.3g}", "WORSE" if change.worse else "better"
        )
    console.print(table)
    return any(change.worse for change in found)


def ratios(value: Any, path: tuple[str, ...] = (), operator: str = "", row: str = "") -> Iterator[Found]:
    """Every ratio that may be compared, wherever it stands in a record."""
    if isinstance(value, list):
        for element in value:
            yield from ratios(element, path, operator, row)
    elif isinstance(value, dict):
        if {"value", "interval", "refusal"} <= value.keys():
            interval = value["interval"]
            yield Found(
                ", ".join(path), operator, row, value["value"]["median"], None if interval is None else tuple(interval)
            )
            return
        named = tuple(str(value[key]) for key in ("operator", "name", "direction") if isinstance(value.get(key), str))
        path += named
        if "operator" in value and "direction" in value:
            operator, row = value["operator"], ", ".join(path)
        for key, inner in value.items():
            # What holds everything, and opponents' ratios, need no name of their own.
            step = () if key in ("summary", "rows", "ratios", "rivals") else (key,)
            yield from ratios(inner, path + step, operator, row)


def _factor(old: Found, new: Found) -> float:
    """What a ratio grew by; 1 where that cannot be told."""
    if old.interval is None or new.interval is None:
        return 1.0
    apart = old.interval[1] < new.interval[0] or new.interval[1] < old.interval[0]
    return new.median / old.median if apart else 1.0


def _change(old: Found, new: Found) -> Change:
    """An overhead is better the smaller it is; speed-ups, shares and utilisations are better the larger they are."""
    worse = (new.median > old.median) == ("overhead" in new.label)
    return Change(new.label, old.median, new.median, worse)
