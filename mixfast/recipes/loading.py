"""From a recipe's name or file, and overrides, to a configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mixfast.config import Config, ConfigError
from mixfast.config.errors import did_you_mean
from mixfast.config.layers import Layer, build, parse_override
from mixfast.recipes.catalogue import Piece, catalogue, read_piece


def load_recipe(
    name_or_path: str | os.PathLike[str], overrides: Sequence[str] = (), data_dir: str | os.PathLike[str] | None = None
) -> Config:
    """The configuration that a recipe and overrides make together.

    Args:
        name_or_path: one of ``recipe_names()``, or a YAML file: its name ends in .yaml or .yml.
        overrides: ``section.key=value`` each, the value being YAML; the later wins.
        data_dir: for ``data.dir``; an override of that key wins over it.

    Raises:
        ConfigError: an unknown recipe, an unknown key (in a file or an override), a value of the wrong type or out of
            range, or settings that contradict each other; names the file or override, and what was expected.
        FileNotFoundError: there is no such file.
    """
    # Overrides first: a misspelt one is refused before anything is read.
    on_top = [parse_override(Config, override) for override in overrides]
    piece = _recipe(name_or_path)
    about = Layer(piece.source, {"about": piece.about})
    place = [] if data_dir is None else [Layer("data_dir", {"data": {"dir": os.fspath(data_dir)}})]
    return build(Config, [*_layers(piece, ()), about, *place, *on_top])


def split_settings(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of recipes, and settings (``key=value``) for all of them, out of one list of words."""
    names: list[str] = []
    settings: list[str] = []
    for word in words:
        is_setting = "=" in word and not word.endswith((".yaml", ".yml"))
        (settings if is_setting else names).append(word)
    return names, settings


def _recipe(name_or_path: str | os.PathLike[str]) -> Piece:
    name = os.fspath(name_or_path)
    if _is_file_name(name):
        return read_piece(Path(os.path.normpath(name)))
    recipes = catalogue().recipes
    if name not in recipes:
        raise ConfigError(
            f"there is no recipe {name!r}{did_you_mean(name, recipes)} (`mixfast recipes` lists all {len(recipes)}; "
            "a file of your own ends in .yaml)"
        )
    return recipes[name]


def _is_file_name(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _layers(piece: Piece, below: tuple[str, ...]) -> list[Layer]:
    """The settings of ``piece`` after those of everything it extends, in the order they are applied.

    ``about`` is not inherited: it describes one recipe. ``below`` are the pieces that led here.
    """
    if piece.source in below:
        chain = " -> ".join([*below[below.index(piece.source) :], piece.source])
        raise ConfigError(f"{piece.source}: extends itself: {chain}")
    layers: list[Layer] = []
    for name in piece.extends:
        layers += _layers(_extended(name, piece), (*below, piece.source))
    return [*layers, Layer(piece.source, piece.values)]


def _extended(name: str, by: Piece) -> Piece:
    """The base, recipe or file that ``by`` extends under ``name``; paths start at the folder of ``by``."""
    if _is_file_name(name):
        path = Path(os.path.normpath(by.folder / name))
        if not path.is_file():
            raise ConfigError(f"{by.source}: extends {name!r}, but there is no file {path}")
        return read_piece(path)
    known = {**catalogue().bases, **catalogue().recipes}
    if name not in known:
        raise ConfigError(f"{by.source}: extends {name!r}, no recipe and no base{did_you_mean(name, known)}")
    return known[name]
