"""What recipes there are: reads the YAML files beside this module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mixfast.config import ConfigError
from mixfast.config.yaml_text import read_yaml

FOLDER = Path(__file__).parent
BASES = "_bases.yaml"
ROW_KEYS = ("extends", "row", "reported")


@dataclass(frozen=True)
class RecipeSummary:
    """What a list of recipes shows; ``table`` is None for recipes that are in no table."""

    name: str
    title: str
    table: str | None = None
    row: str | None = None
    reported: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A base or a recipe: settings on top of the pieces it extends.

    values   settings by section, without ``extends`` and ``about``
    source   what messages call it
    folder   where the paths in ``extends`` start
    """

    source: str
    extends: tuple[str, ...]
    values: Mapping[str, Any]
    about: Mapping[str, Any]
    folder: Path = FOLDER


@dataclass(frozen=True)
class Catalogue:
    """Bases and recipes by name; recipes in the order of their tables."""

    bases: Mapping[str, Piece]
    recipes: Mapping[str, Piece]


def list_recipes() -> list[RecipeSummary]:
    """All recipes: first those in no table, then by table, rows in the table's order."""
    return [
        RecipeSummary(
            name,
            recipe.about["title"],
            recipe.about.get("table"),
            recipe.about.get("row"),
            dict(recipe.about.get("reported", {})),
        )
        for name, recipe in catalogue().recipes.items()
    ]


def recipe_names() -> list[str]:
    """The names that ``load_recipe`` takes, in the order of ``list_recipes``."""
    return list(catalogue().recipes)


def read_piece(path: Path) -> Piece:
    """A YAML file with ``extends``, ``about`` and sections; its title is the file's name unless it gives one.

    Raises:
        ConfigError: not YAML, or ``extends`` or ``about`` are not what they should be.
        FileNotFoundError: there is no such file.
    """
    values = read_yaml(path)
    about = values.pop("about", {})
    if not isinstance(about, Mapping):
        raise ConfigError(f"{path}: about is a section, expected keys below it such as about.title, got {about!r}")
    extends = _names(values.pop("extends", []), str(path))
    return Piece(str(path), extends, values, {"title": path.stem, **about}, path.parent)


@cache
def catalogue() -> Catalogue:
    """Everything in ``FOLDER``, read once a process.

    Raises:
        ConfigError: a file is wrong, or tables contradict each other.
    """
    bases = {name: _base(f"{BASES}, {name}", values) for name, values in read_yaml(FOLDER / BASES).items()}
    files = [path for path in sorted(FOLDER.glob("*.yaml"), key=_table_order) if path.name != BASES]
    recipes = {path.stem: read_piece(path) for path in files if not _is_table(path)}
    tables = [(path, read_yaml(path)) for path in files if _is_table(path)]
    rows: dict[str, list[tuple[Path, str, Mapping[str, Any]]]] = {}
    for path, table in tables:
        for name, row in table["rows"].items():
            rows.setdefault(name, []).append((path, table["table"], row))
    recipes.update((name, _recipe(name, entries, bases)) for name, entries in rows.items())
    return Catalogue(bases, recipes)


def _base(source: str, values: dict[str, Any]) -> Piece:
    about = {"title": values.pop("title", "")}
    return Piece(source, _names(values.pop("extends", []), source), values, about)


def _is_table(path: Path) -> bool:
    return path.name.startswith(("table-", "figure-", "section-"))


def _table_order(path: Path) -> tuple[bool, list[tuple[bool, int, str]], str]:
    """Tables last, chapters before appendices, numbers by value: quickstart, 3.1, 3.10, A.5.6, A.12."""
    label = path.stem.partition("-")[2] if _is_table(path) else ""
    parts = re.findall(r"[0-9]+|[A-Za-z]+", label)
    numbers = [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
    return _is_table(path), numbers, path.stem


def _recipe(name: str, entries: Iterable[tuple[Path, str, Mapping[str, Any]]], bases: Mapping[str, Piece]) -> Piece:
    """One network out of its rows in one or more tables."""
    extends: tuple[str, ...] = ()
    tables, rows, reported = [], [], {}
    for path, table, row in entries:
        source = f"{path.name}, {name}"
        unknown = [key for key in row if key not in ROW_KEYS]
        if unknown:
            raise ConfigError(f"{source}: unknown key {unknown[0]!r}, expected some of {', '.join(ROW_KEYS)}")
        if "extends" in row:
            if extends:
                raise ConfigError(f"{source}: already defined in another table; leave out 'extends' here")
            extends, defined_in = _names(row["extends"], source), source
        tables.append(table)
        rows.append(row["row"])
        for key, value in row.get("reported", {}).items():
            if reported.setdefault(key, value) != value:
                raise ConfigError(f"{source}: {key} is {value} here and {reported[key]} in another table")
    if not extends:
        raise ConfigError(f"{source}: no table defines it; add 'extends' to one of its rows")
    title = ", ".join(bases[base].about["title"] for base in extends if base in bases and bases[base].about["title"])
    about = {"title": title, "table": ", ".join(tables), "row": "; ".join(dict.fromkeys(rows)), "reported": reported}
    return Piece(defined_in, extends, {}, about)


def _names(extends: Any, source: str) -> tuple[str, ...]:
    """``extends`` as written: one name, or a list of names."""
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{source}: extends is {extends!r}, expected the name of a recipe, base or file, or a list")
    return tuple(names)
