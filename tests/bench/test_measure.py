"""Interleaving and stopwatches, on clocks that the tests turn themselves."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from mixfast_bench import measure
from mixfast_bench.measure import UNTIMED, Timings, interleave, time_turn


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    return clock


class Work:
    """Takes known times: run n of it takes n times the given seconds of each phase."""

    def __init__(self, name, clock, phases, log):
        self.name, self.clock, self.phases, self.log, self.count = name, clock, phases, log, 0

    def run(self, mark):
        self.log.append(self.name)
        self.count += 1
        for phase, seconds in self.phases.items():
            self.clock.now += self.count * seconds
            mark(phase)


def test_a_turn_of_several_runs_begins_with_one_that_is_not_timed(clock, cpu):
    """Runs 2 and 3 in the first turn, 5 and 6 in the second; what others take in between is not counted."""
    log, finished = [], []
    work = Work("work", clock, {"data": 1.0, "step": 10.0}, log)
    other = Work("other", clock, {"all": 1000.0}, log)
    timings = interleave([work, other], 2, 2, cpu, lambda: finished.append(len(log)))
    assert timings["work"].phases == {"data": [2.5, 5.5], "step": [25.0, 55.0]}
    assert timings["work"].total() == [27.5, 60.5]
    assert timings["other"].phases == {"all": [2500.0, 5500.0]}
    assert finished == [6, 12]


def test_a_turn_of_one_run_is_that_run(clock, cpu):
    work = Work("work", clock, {"data": 1.0, "step": 10.0}, [])
    timings = interleave([work, Work("other", clock, {"all": 1000.0}, [])], 2, 1, cpu)
    assert timings["work"].phases == {"data": [1.0, 2.0], "step": [10.0, 20.0]}


def test_each_round_has_its_own_order_and_nobody_follows_itself(clock, cpu):
    """Every contender has a turn a round, stands everywhere, and follows every other one about equally often."""
    rounds, names = 600, "ABC"
    log = []
    interleave([Work(name, clock, {"work": 1.0}, log) for name in names], rounds, 1, cpu)
    orders = ["".join(log[3 * i : 3 * i + 3]) for i in range(rounds)]
    assert set(map("".join, permutations(names))) == set(orders)
    for place in range(3):
        firsts = Counter(order[place] for order in orders)
        assert min(firsts[name] for name in names) > rounds / 3 * 0.8
    followed = Counter(zip(log, log[1:], strict=False))
    assert not any(followed[name, name] for name in names)
    assert min(followed[pair] for pair in permutations(names, 2)) > rounds / 2 * 0.8

    again = []
    interleave([Work(name, clock, {"work": 1.0}, again) for name in names], rounds, 1, cpu)
    assert again == log


def test_one_contender_alone_follows_itself(clock, cpu):
    assert interleave([Work("work", clock, {"work": 1.0}, [])], 3, 1, cpu)["work"].total() == [1.0, 2.0, 3.0]


def test_a_phase_that_comes_twice_in_a_run_adds_up(clock, cpu):
    class Twice:
        name = "twice"

        def run(self, mark):
            for _ in range(2):
                clock.now += 1
                mark("a")
                clock.now += 5
                mark("b")

    assert time_turn(Twice(), 3, cpu) == {"a": 2, "b": 10}


def test_what_a_run_needs_before_it_begins_is_not_counted(clock, cpu):
    work = Work("work", clock, {UNTIMED: 100.0, "pass": 1.0}, [])
    assert time_turn(work, 2, cpu) == {"pass": 1.5}


def test_totals_need_every_phase_in_every_round():
    with pytest.raises(ValueError):
        Timings({"data": [1.0, 2.0], "step": [1.0]}).total()


def test_the_cuda_watch_sums_between_events(clock, monkeypatch):
    """On fakes: an event holds the stream's time at its place; nothing is read before the device has finished."""
    calls = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = clock.now
            calls.append(f"record on {stream}")

        def elapsed_time(self, later):
            calls.append("read")
            return 1000 * (later.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("synchronize"))
    work = Work("work", clock, {"data": 1.0, "step": 10.0}, [])
    assert time_turn(work, 2, torch.device("cuda:0")) == pytest.approx({"data": 1.5, "step": 15.0})
    assert calls == ["synchronize", *["record on stream of cuda:0"] * 5, "synchronize", *["read"] * 4]
