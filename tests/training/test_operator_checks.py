"""What ``mixfast doctor`` says of the operators on each backend."""

from __future__ import annotations

import pytest

from mixfast.commands import operator_checks
from mixfast.commands.operator_checks import Backend, check_operators


def lines_of(monkeypatch, *backends):
    monkeypatch.setattr(operator_checks, "backends_here", lambda: list(backends))
    return list(check_operators())


def test_a_line_for_every_operator(monkeypatch):
    lines = lines_of(monkeypatch, Backend("plain", "reference"))
    assert len({line.operator for line in lines}) == len(lines) >= 5
    assert all(line.passed and line.backend == "plain" and "of allowed" in line.detail for line in lines)


def test_what_cannot_be_had_gets_one_line_with_the_reason(monkeypatch):
    (line,) = lines_of(monkeypatch, Backend("far away", "native", missing="no usable GPU"))
    assert (line.operator, line.passed, line.detail) == ("", False, "no usable GPU")


def test_a_backend_that_does_not_start_gets_one_line_with_the_last_error(monkeypatch):
    (line,) = lines_of(monkeypatch, Backend("odd", "no-such-backend"))
    assert not line.passed and "MIXFAST_BACKEND must be one of" in line.detail


def test_no_answer_in_time_is_said(monkeypatch):
    monkeypatch.setattr(operator_checks, "TIMEOUT_SECONDS", 0.01)
    (line,) = lines_of(monkeypatch, Backend("slow", "reference"))
    assert not line.passed and "no answer" in line.detail


@pytest.mark.parametrize(
    ("check", "detail"),
    [
        (
            '{"operator": "toy", "error": null, "seconds": 0.1, "passed": false, "problem": "RuntimeError: no"}',
            "RuntimeError: no",
        ),
        (
            '{"operator": "toy", "error": 1.5, "seconds": 0.1, "passed": false, "problem": ""}',
            "1.50 of allowed, 100.0 ms",
        ),
    ],
)
def test_an_operator_that_is_wrong_is_said_to_be(monkeypatch, tmp_path, check, detail):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho '{check}'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(operator_checks.sys, "executable", str(script))
    (line,) = lines_of(monkeypatch, Backend("wrong", "native"))
    assert (line.operator, line.passed, line.detail) == ("toy", False, detail)
