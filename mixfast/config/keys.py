"""Dotted keys: which ones a model has, and refusing those it has not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from mixfast.config.errors import ConfigError

Model = type[BaseModel]


def section_of(model: Model, name: str) -> Model | None:
    """The model of the section ``name``, or None where ``name`` is an ordinary key."""
    kind = model.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def known_keys(model: Model) -> tuple[str, ...]:
    """Every key, dotted, in order: ``("about.title", ..., "seed", "data.name", ...)``."""
    keys: list[str] = []
    for name in model.model_fields:
        section = section_of(model, name)
        keys += [name] if section is None else [f"{name}.{key}" for key in known_keys(section)]
    return tuple(keys)


def check_keys(model: Model, values: Mapping[Any, Any], source: str) -> None:
    """Refuses, naming ``source``, keys that ``model`` has not and sections that are no mappings.

    Raises:
        ConfigError: one line for each wrong key, with the nearest valid one.
    """
    wrong = [f"{source}: {problem}" for problem in _wrong_keys(model, model, values, "")]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _wrong_keys(root: Model, model: Model, values: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in model.model_fields:
            yield unknown_key(root, key)
            continue
        section = section_of(model, name)
        if section is None:
            continue
        if isinstance(value, Mapping):
            yield from _wrong_keys(root, section, value, f"{key}.")
        else:
            example = next(iter(section.model_fields))
            yield f"{key} is a section, expected keys below it such as {key}.{example}, got {value!r}"


def unknown_key(root: Model, key: str) -> str:
    """The message for a dotted key that does not exist, with the nearest one that does."""
    section, _, leaf = key.rpartition(".")
    known = known_keys(root)
    siblings = {_leaf(other): other for other in known if section and other.startswith(f"{section}.")}
    namesakes = [other for other in known if _leaf(other) == leaf]
    close_siblings = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close_siblings:
        nearest = siblings[close_siblings[0]]
    else:
        nearest = difflib.get_close_matches(key, namesakes or known, n=1, cutoff=0.0)[0]
    place, valid = (f"section {section}", siblings) if siblings else ("top level", root.model_fields)
    return f"unknown key {key!r}; did you mean {nearest!r}? ({place} has {', '.join(valid)})"


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]
