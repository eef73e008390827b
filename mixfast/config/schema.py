"""The configuration of a run: its sections, and what can be said of them together."""

from __future__ import annotations

import math
import os
from typing import Any

from pydantic import Field, model_validator

from mixfast.config.consistency import contradictions
from mixfast.config.layers import Layer, build, deep_merge
from mixfast.config.sections import (
    AboutSection,
    DataSection,
    EnsembleSection,
    EvaluationSection,
    MethodName,
    MethodSection,
    ModelSection,
    MsdaSection,
    OptimizerSection,
    ScheduleSection,
    Section,
    TrainingSection,
)
from mixfast.config.yaml_text import dump_yaml, parse_mapping, read_yaml


class Config(Section):
    """Everything that determines a run. Immutable; building one refuses settings that contradict each other."""

    about: AboutSection = AboutSection()
    seed: int = Field(0, ge=0, lt=2**31, description="Source of all randomness.")
    data: DataSection
    model: ModelSection
    method: MethodSection = MethodSection()
    msda: MsdaSection = MsdaSection()
    optimizer: OptimizerSection
    schedule: ScheduleSection
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()
    ensemble: EnsembleSection = EnsembleSection()
    baseline: bool = Field(
        False, description="Also train the plain single-input network for the same number of steps, beside it."
    )
    beside: tuple[MethodName, ...] = Field(
        (), strict=False, description="Also train these methods, with all other settings the same, beside it."
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Config:
        lines = list(contradictions(self))
        if lines:
            raise ValueError("\n".join(lines))
        return self

    def learning_rate(self) -> float:
        """The learning rate after warm-up: lr, scaled to the batch size, divided by the repetition where asked."""
        settings = self.optimizer
        ratio = self.training.batch_size / settings.lr_batch
        scale = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[settings.lr_scaling]
        return settings.lr * scale / (self.data.repetition if settings.lr_per_repetition else 1)

    def to_yaml(self) -> str:
        """Every key with its value; ``from_yaml`` and ``from_text`` read exactly this configuration back."""
        return dump_yaml(self.model_dump(mode="json"))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Config:
        """The configuration in a file that ``to_yaml`` wrote, such as a run's config.yaml.

        Raises:
            ConfigError: not YAML, or not a valid configuration; names the file, the key, and what was expected.
            FileNotFoundError: there is no such file.
        """
        return build(cls, [Layer(str(path), read_yaml(path))])

    @classmethod
    def from_text(cls, text: str, source: str) -> Config:
        """The configuration that ``to_yaml`` wrote as ``text``; ``source`` names its origin in messages.

        Raises:
            ConfigError: not YAML, or not a valid configuration; names ``source``, the key, and what was expected.
        """
        return build(cls, [Layer(source, parse_mapping(text, source))])

    def replace(self, **changes: Any) -> Config:
        """The same configuration with some top-level keys changed; a section's changes are a dict of its keys.

        Raises:
            ConfigError: the result is not a valid configuration.
        """
        return build(type(self), [Layer("changes", deep_merge(self.model_dump(mode="json"), changes))])
