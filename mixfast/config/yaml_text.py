"""YAML as people expect it: ``1e-3`` is a number, ``off`` is a word, and a key given twice is a mistake.

PyYAML reads YAML 1.1, where ``1e-3`` is text, ``off`` is false, ``010`` is eight and ``1:30`` is ninety. Reading here
follows the core schema of YAML 1.2. Writing quotes whatever either version would misread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mixfast.config.errors import ConfigError

_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
_FLOAT_FIRST = list("-+.0123456789")
_SCALARS = (
    ("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, _FLOAT_FIRST),
)


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2 and without silent repetition of keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(loader.construct_scalar(node)))


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which also quotes text that only YAML 1.2 would read as a number."""


for _tag, _pattern, _first in _SCALARS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Line breaks other than \n come back as spaces unless they are escaped, which only double quotes allow.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def parse_yaml(text: str, source: str) -> Any:
    """The value that ``text`` stands for; ``source`` names its origin in messages.

    Raises:
        ConfigError: not YAML, or a key given twice; says where.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{place}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error


def parse_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping that ``text`` stands for; empty text is an empty mapping.

    Raises:
        ConfigError: not YAML, or not a mapping.
    """
    values = parse_yaml(text, source)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected keys with values, such as 'data: {{name: cifar100}}', got {values!r}")
    return values


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in the file ``path``.

    Raises:
        ConfigError: not readable as UTF-8, not YAML, or not a mapping.
        FileNotFoundError: there is no such file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8: {error}") from error
    return parse_mapping(text, str(path))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """``values`` as YAML text, keys in their order; ``parse_yaml`` gives exactly the same values back."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
