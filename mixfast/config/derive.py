"""What follows from configurations: how two differ, and the plain network to compare one with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mixfast.config.errors import ConfigError
from mixfast.config.layers import Layer, build, deep_merge
from mixfast.config.schema import Config
from mixfast.config.sections import AboutSection, MethodSection

_ABSENT = "(absent)"


def differences(old: Config, new: Config) -> list[str]:
    """``["schedule.epochs: 300 -> 10", ...]`` for every key whose value differs, in the order of the schema."""
    old_values, new_values = dict(_flat(old.model_dump(mode="json"))), dict(_flat(new.model_dump(mode="json")))
    lines = []
    for key in {**old_values, **new_values}:
        before, after = old_values.get(key, _ABSENT), new_values.get(key, _ABSENT)
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain_baseline(config: Config, total_steps: int) -> Config:
    """The plain single-input network that is compared with ``config``: as many steps, nothing else changed.

    Without repetition an epoch has b times fewer steps, so there are b times as many epochs, and the drops and the
    warm-up, in epochs, move with them. An epoch drops its last incomplete batch, so b plain epochs can be a few steps
    short of one repeated epoch: the epochs are rounded up, and ``schedule.max_steps`` ends both runs at the same step.
    The learning rate is that of a run without repetition (thesis 3.3.4.1). Evaluations are b times as many epochs
    apart, so that the best one is chosen among equally many.

    Args:
        config: a method with several inputs.
        total_steps: steps that the run of ``config`` takes, at least 1.

    Raises:
        ConfigError: ``config`` is a plain network itself, or ``total_steps`` is not positive.
    """
    if config.method.num_inputs == 1:
        raise ConfigError(f"method.name is {config.method.name}, expected a method with several inputs to compare with")
    if total_steps < 1:
        raise ConfigError(f"total_steps is {total_steps}, expected at least 1")
    b, schedule = config.data.repetition, config.schedule
    steps_per_epoch = max(1, total_steps // schedule.epochs // b)
    changes = {
        "about": AboutSection(title=f"Plain network beside: {config.about.title}").model_dump(mode="json"),
        "data": {"repetition": 1, "views": "independent", "input_repetition": 0.0, "groups": 1},
        "method": MethodSection().model_dump(mode="json"),
        "schedule": {
            "epochs": max(schedule.epochs * b, -(-total_steps // steps_per_epoch)),
            "warmup_epochs": schedule.warmup_epochs * b,
            "decay_epochs": [epoch * b for epoch in schedule.decay_epochs],
            "max_steps": total_steps,
        },
        "evaluation": {"every": config.evaluation.every * b},
        "baseline": False,
        "beside": [],
    }
    values = config.model_dump(mode="json", exclude={"about"})
    return build(Config, [Layer("the plain baseline", deep_merge(values, changes))])


def other_method(config: Config, name: str) -> Config:
    """The run of another method that is compared with ``config``: nothing else changed.

    Raises:
        ConfigError: settings of ``config`` have no effect on, or do not fit, the other method.
    """
    title = f"{name} beside: {config.about.title}"
    values = config.model_dump(mode="json", exclude={"about"})
    changes = {"about": {"title": title}, "method": {"name": name}, "baseline": False, "beside": []}
    return build(Config, [Layer(f"beside, {name}", deep_merge(values, changes))])
