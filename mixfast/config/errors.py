"""The one exception of configurations and recipes, and the wording of a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A recipe, an override or a configuration file is wrong. The message names the file or override, the key, the
    value that came and what was expected."""


def did_you_mean(got: object, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the nearest of ``known``, or nothing where none is anywhere near ``got``."""
    nearest = difflib.get_close_matches(str(got), list(known), n=1, cutoff=0.4)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
