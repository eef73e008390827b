"""Configurations as text: read as people expect, written so that they are read back exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from configs import config, flat, mixmo
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixfast.config import Config, ConfigError
from mixfast.config.keys import known_keys
from mixfast.config.yaml_text import dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("-7", -7),
        ("010", 10),
        ("off", "off"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("", None),
        ("1:30", "1:30"),
        ("2022-01-01", "2022-01-01"),
        ("folder:imagenet", "folder:imagenet"),
        ("e5", "e5"),
        ("'1e-3'", "1e-3"),
        ("[75, 150]", [75, 150]),
    ],
)
def test_scalars_are_read_as_people_expect(text, value):
    read = parse_yaml(text, "test")
    assert read == value
    assert type(read) is type(value)


def test_a_key_given_twice_is_refused_with_its_line():
    with pytest.raises(ConfigError, match=r"here, line 3, column 1: the key 'seed' is there twice"):
        parse_yaml("seed: 1\nbaseline: true\nseed: 2\n", "here")


def test_what_is_no_yaml_is_refused_with_its_line():
    with pytest.raises(ConfigError, match=r"here, line 2, column"):
        parse_yaml("seed: 1\n  data: [", "here")


TEXT = st.text(max_size=8) | st.text(alphabet="0123456789.eE+-:_ofnyuls~ #\n\x85", max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=3), max_size=4))
@example({"\x85": "a\u2028b", "1e-3": "off", "010": "1:30", "08": "09"})
def test_what_is_written_is_read_back_exactly(values):
    read = parse_yaml(dump_yaml(values), "test") or {}
    assert read == values
    assert list(map(repr, read.values())) == list(map(repr, values.values()))


def test_yaml_round_trip_through_a_file(tmp_path: Path):
    original = mixmo(
        "about.title='1e-3'",
        "about.reported.top1=0.1",
        "about.reported.nll=1e-7",
        "optimizer.weight_decay=6e-4",
        "schedule.decay_epochs=[3, 6]",
        "training.ema_decay=0.9999",
        "data.dir=/some where/ü:x",
    )
    path = tmp_path / "config.yaml"
    path.write_text(original.to_yaml(), encoding="utf-8")
    assert Config.from_yaml(path) == original
    assert Config.from_yaml(path).to_yaml() == original.to_yaml()
    assert Config.from_text(original.to_yaml(), "test") == original
    assert set(flat(parse_yaml(original.to_yaml(), "test"))) >= set(known_keys(Config)) - {"about.reported"}


@settings(deadline=None)
@given(
    TEXT,
    st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.floats(1e-30, 100),
    st.none() | st.floats(1e-9, 1 - 1e-9),
)
def test_yaml_round_trip_is_exact(title, reported, rate, decay):
    original = config(
        about={"title": title, "reported": reported},
        optimizer={"lr": rate},
        training={"batch_size": 64, "ema_decay": decay},
    )
    assert Config.from_text(original.to_yaml(), "test") == original


def test_a_wrong_file_is_named(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(mixmo().to_yaml().replace("repetition: 1", "repetitions: 1"), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        Config.from_yaml(path)
    assert f"{path}: unknown key 'data.repetitions'; did you mean 'data.repetition'?" in str(refused.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        Config.from_yaml(path)
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"expected keys with values, .* got \[1\]"):
        Config.from_yaml(path)
    with pytest.raises(FileNotFoundError):
        Config.from_yaml(tmp_path / "absent.yaml")
