"""Small configurations whose cost is counted."""

from __future__ import annotations

import pytest

from mixfast.config import Config
from mixfast.data import DataShape


@pytest.fixture
def config_of():
    """A configuration of a backbone and a method's settings."""

    def make(backbone: str, batch_size: int = 6, **method: object) -> Config:
        return Config.model_validate(
            {
                "data": {"name": "cifar100"},
                "model": {"name": backbone},
                "method": method,
                "optimizer": {"lr": 0.1},
                "schedule": {"epochs": 1},
                "training": {"batch_size": batch_size},
            }
        )

    return make


@pytest.fixture
def small_shape():
    """Neither square nor a power of two where a stride halves it."""
    return DataShape(channels=3, image_shape=(20, 28), num_classes=7)
