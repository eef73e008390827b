"""A run small enough for tests: scikit-learn's digits on a narrow network."""

from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console
from small_runs import SMALL, StopAfter

from mixfast.recipes import load_recipe
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import Session


@pytest.fixture
def small_config():
    def build(*overrides):
        return load_recipe("quickstart", [*SMALL, *overrides])

    return build


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def run_session(console):
    """Starts or resumes a run; returns whether it finished."""

    def run(config, path, stop_after=None, resume=False):
        stop = StopAfter(10**9 if stop_after is None else stop_after)
        session = Session(config, RunDirectory(path), console)
        return session.resume(stop) if resume else session.start(stop)

    return run


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        yield
