"""mixfast: trains networks that take M mixed images and give M predictions, at full throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixfast.methods import create_model

__version__ = "0.1.0"

__all__ = ["__version__", "create_model"]


def __getattr__(name: str) -> Any:
    """torch is loaded when it is first needed, so that the command can say before how its threads are to wait."""
    if name != "create_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mixfast.methods import create_model

    return create_model
