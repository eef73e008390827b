"""What one process of several does by itself: who it is, what it refuses, whose batches it predicts, whom it watches."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist
from test_views import random_set

from mixfast import cli
from mixfast.errors import MixfastError
from mixfast.methods import create_model
from mixfast.recipes import load_recipe
from mixfast.training import board as board_module
from mixfast.training import watch as watch_module
from mixfast.training.board import Board, LostError
from mixfast.training.evaluating import predict_logits
from mixfast.training.ranks import ONE_PROCESS, Ranks
from mixfast.training.session import check_shares, resolve_device
from mixfast.training.team import ALONE, Team
from mixfast.training.voting import Decision, Votes
from mixfast.training.watch import Watch, gone

TORCHRUN = {"WORLD_SIZE": "6", "RANK": "4", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "1"}


def test_ranks_are_what_torchrun_says() -> None:
    assert Ranks.from_environment(TORCHRUN) == Ranks(4, 6, 1, 3)
    assert Ranks.from_environment({}) == Ranks.from_environment({"WORLD_SIZE": "1", "RANK": "0"}) == ONE_PROCESS


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", None), ("RANK", "6"), ("RANK", "-1"), ("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "7")]
)
def test_an_environment_that_cannot_be_is_refused(name, value) -> None:
    environment = {key: text for key, text in {**TORCHRUN, name: value}.items() if text is not None}
    with pytest.raises(MixfastError, match=rf"^{name} is "):
        Ranks.from_environment(environment)


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        (["training.batch_size=64"], 3, "of all 3 processes together.*the nearest batch size is 60 or 66"),
        (["training.batch_size=64", "data.repetition=32"], 4, "all 32 repetitions.*the nearest batch size is 128"),
        (["training.batch_size=64", "training.accumulation=16"], 8, "training.accumulation=16 equal parts.*is 128"),
        (
            ["method.name=single", "method.num_inputs=1", "method.alpha=null", "baseline=false", "data.repetition=1"]
            + ["method.probability=0.5", "msda.kind=manifold-mixup"],
            2,
            "data.groups is 1.*set data.groups=2",
        ),
    ],
)
def test_shares_that_cannot_be_equal_are_refused(settings, count, message) -> None:
    config = load_recipe("quickstart", settings)
    check_shares(config, 1)
    with pytest.raises(ValueError, match=message):
        check_shares(config, count)


def test_every_process_has_a_device_of_its_own(monkeypatch) -> None:
    ranks, chosen = Ranks(4, 6, 1, 3), []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for devices, name, expected in (
        (0, "auto", "cpu"),
        (4, "cpu", "cpu"),
        (3, "auto", "cuda:1"),
        (4, "cuda", "cuda:1"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda devices=devices: devices)
        assert resolve_device(name, ranks) == torch.device(expected)
    assert chosen == [1, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"started 3 processes on this machine, but torch sees 2 CUDA devices .*=2"):
        resolve_device("auto", ranks)
    for name in ("cuda:0", "mps"):
        with pytest.raises(ValueError, match=f"training.device is {name} and torchrun started 6 processes"):
            resolve_device(name, ranks)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="torch sees 0 CUDA devices"):
        resolve_device("cuda", ranks)


def test_only_training_takes_several_processes(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(cli, "SECONDS_FOR_FIRST", 0)
    printed = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            cli.main(["recipes"])
        printed.append(capsys.readouterr().err)
    assert "recipes runs in one process, but torchrun started 2" in printed[0] and printed[1] == ""


class Together(Team):
    """A process of a team whose exchanges are played: first what it gives is kept, then it gets what all gave."""

    def __init__(self, ranks: Ranks, gathered: list[torch.Tensor] | None = None) -> None:
        super().__init__(ranks)
        self.given: list[torch.Tensor] = []
        self.gathered = gathered

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        self.given.append(tensor)
        return torch.stack(self.gathered or [tensor] * self.count)


@pytest.mark.parametrize("images", [1, 7, 8, 30])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_shared_predictions_are_those_of_one_process_to_the_bit(images, count) -> None:
    torch.manual_seed(0)
    network = create_model("wrn10-1", num_classes=7, method="cut-mixmo", num_inputs=2)
    data = random_set(count=images)
    expected = predict_logits(network, data, 4)
    given = []
    for rank in range(count):
        team = Together(Ranks(rank, count))
        predict_logits(network, data, 4, team=team)
        given += team.given
    for rank in range(count):
        got = predict_logits(network, data, 4, team=Together(Ranks(rank, count), given))
        assert torch.equal(got, expected)


def test_one_process_decides_at_once() -> None:
    votes = Votes(ALONE)
    assert [votes.cast(True, False), votes.cast(False, True), votes.close()] == [
        Decision(stop=True),
        Decision(save=True),
        Decision(),
    ]


@pytest.fixture
def boards(monkeypatch):
    """Boards of three processes, over a store in this one."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    yield lambda rank: Board(Ranks(rank, 3))
    del store


def test_a_board_says_who_lives_and_why_others_left(boards, monkeypatch) -> None:
    monkeypatch.setattr(board_module, "PATIENCE_SECONDS", 0.05)
    first, second, third = (boards(rank) for rank in range(3))
    assert first.silent() == [1, 2]
    first.post("the cache")
    second.wait_for("the cache")
    third.leave("a full disk")
    assert first.silent() == [1] and first.why_ended() == "a full disk" and first.has_left(2)
    with pytest.raises(LostError, match="a full disk"):
        second.wait_for("another")
    assert [board.claim("a mistake") for board in (first, second)] == [True, False]
    assert second.is_said("a mistake", 0) and not second.is_said("another", 0)


def test_a_watch_ends_a_process_that_waits_for_one_that_is_gone(boards, monkeypatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT_SECONDS", 0.01)
    ended, said = [], []
    monkeypatch.setattr(watch_module.os, "_exit", ended.append)
    watches = [Watch(boards(rank), lambda board, reason: said.append((board.ranks.rank, reason))) for rank in range(3)]
    time.sleep(0.6)
    assert not ended and not said
    watches[1].stop()  # as if it were killed: its heart beats no more
    deadline = time.monotonic() + 30
    while len(ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [2, 2]
    assert sorted(said) == [(0, gone([1], 3)), (2, gone([1], 3))]


def test_a_watch_stops_when_its_process_is_done(boards, monkeypatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(watch_module.os, "_exit", lambda status: pytest.fail("ended"))
    watches = [Watch(boards(rank), lambda board, reason: pytest.fail(reason)) for rank in range(3)]
    for watch in watches:
        watch.stop()
    time.sleep(0.6)
    assert not any(watch._thread.is_alive() for watch in watches)


def test_nothing_answers(monkeypatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(LostError, match="MASTER_PORT=''"):
        Board(Ranks(0, 2))
