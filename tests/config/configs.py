"""Small configurations to test with."""

from __future__ import annotations

from mixfast.config import Config
from mixfast.config.layers import Layer, build, parse_override

SMALLEST = {
    "data": {"name": "digits"},
    "model": {"name": "wrn10-1"},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 10},
    "training": {"batch_size": 64},
}
MIXMO = {"method": {"name": "cut-mixmo", "num_inputs": 2}}


def config(*overrides: str, **sections: object) -> Config:
    layers = [Layer("smallest", SMALLEST), Layer("test", sections)]
    return build(Config, [*layers, *(parse_override(Config, text) for text in overrides)])


def mixmo(*overrides: str) -> Config:
    return config(*overrides, **MIXMO)


def flat(values: dict, prefix: str = "") -> dict:
    out = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out
