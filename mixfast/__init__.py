"""mixfast: trains networks that take M mixed images and give M predictions, at full throughput."""

from mixfast.methods import create_model

__version__ = "0.1.0"

__all__ = ["__version__", "create_model"]
