"""Typed configuration: the schema of every recipe, how layers of settings are merged, and what follows from them.

Recipes by name, inheritance and ``load_recipe`` are in ``mixfast.recipes``, which builds on this.
"""

from mixfast.config.derive import differences, other_method, plain_baseline
from mixfast.config.errors import ConfigError
from mixfast.config.schema import Config

__all__ = ["Config", "ConfigError", "differences", "other_method", "plain_baseline"]
