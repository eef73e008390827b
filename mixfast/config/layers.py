"""Layers of settings: each from one file or one override, merged in order and validated as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mixfast.config.errors import ConfigError, did_you_mean
from mixfast.config.keys import check_keys, known_keys, section_of, unknown_key
from mixfast.config.yaml_text import parse_yaml

M = TypeVar("M", bound=BaseModel)

EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "one of the choices",
    "string_too_short": "text that is not empty",
    "too_long": "a list of at most {max_length}",
}
"""What a value should have been, for each of pydantic's error types that the schema can raise."""


@dataclass(frozen=True)
class Layer:
    """Some settings, as nested mappings, and where they come from (for messages)."""

    source: str
    values: Mapping[str, Any]


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` in their place: mappings are merged, anything else (lists too) replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both_mappings = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = deep_merge(below, value) if both_mappings else value
    return merged


def parse_override(model: type[BaseModel], text: str) -> Layer:
    """The layer that ``section.key=value`` stands for; the value is YAML.

    Raises:
        ConfigError: no ``=``, a section instead of a key, an unknown key, or a value that is no YAML.
    """
    source = f"override {text!r}"
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"{source}: expected key=value, such as schedule.epochs=10")
    names = key.split(".")
    is_section = names[0] in model.model_fields and section_of(model, names[0]) is not None
    if is_section and len(names) == 1:
        keys = [known for known in known_keys(model) if known.startswith(f"{key}.")]
        raise ConfigError(f"{source}: {key} is a section, expected one of its keys: {', '.join(keys)}")
    if not is_section and len(names) > 1:
        raise ConfigError(f"{source}: {unknown_key(model, key)}")
    values: Any = parse_yaml(value, source)
    for name in reversed(names):
        values = {name: values}
    check_keys(model, values, source)
    return Layer(source, values)


def build(model: type[M], layers: Sequence[Layer]) -> M:
    """The validated object that the layers make together; later ones win.

    Raises:
        ConfigError: an unknown key, a missing one, a value out of range, or values that contradict each other; a line
            each, with the layer that it came from.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        check_keys(model, layer.values, layer.source)
        merged = deep_merge(merged, layer.values)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explanations(model, error, layers))) from error


def _explanations(model: type[BaseModel], error: ValidationError, layers: Sequence[Layer]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        key = ".".join(str(part) for part in location)
        if not location:
            # A contradiction: the schema's own words, one line for each.
            yield from str(problem["ctx"]["error"]).splitlines()
        elif problem["type"] == "missing":
            where = f" (in {layers[-1].source})" if layers else ""
            yield from (f"{missing} is missing{where}" for missing in _required_keys(model, location))
        else:
            yield f"{key} is {problem['input']!r}, expected {_expected(problem)} ({_source_of(location, layers)})"


def _required_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The keys without a default at ``location``, which is a key or a whole section."""
    key = ".".join(map(str, location))
    section = section_of(model, key) if len(location) == 1 else None
    if section is None:
        return [key]
    return [f"{key}.{name}" for name, field in section.model_fields.items() if field.is_required()]


def _expected(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    pattern = EXPECTED.get(problem["type"])
    if pattern is None:
        return problem["msg"]
    if problem["type"] == "literal_error":
        choices = context["expected"].split("'")[1::2]
        return f"one of {', '.join(choices)}{did_you_mean(problem['input'], choices)}"
    return pattern.format(**context)


def _source_of(location: Sequence[Any], layers: Sequence[Layer]) -> str:
    """The last layer that sets the value at ``location``."""
    for layer in reversed(layers):
        values: Any = layer.values
        for part in location:
            if isinstance(values, Mapping) and part in values:
                values = values[part]
            elif isinstance(values, Mapping):
                break
        else:
            return layer.source
    return "the defaults"
