"""One network's training, from the first step or from a checkpoint to the last step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from mixfast_kernels import mixed_cross_entropy
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from mixfast.config import Config, differences
from mixfast.data import Images
from mixfast.data.randomness import NETWORK_STREAM, random_keys
from mixfast.errors import MixfastError
from mixfast.evaluation import evaluate_logits
from mixfast.flops import training_flops
from mixfast.methods import Method, Moment, Network
from mixfast.models.transformer_blocks import set_rows
from mixfast.training.accumulation import split_batch
from mixfast.training.checkpoint import CheckpointError, fingerprint, load_checkpoint, save_checkpoint, save_weights
from mixfast.training.compiling import should_compile
from mixfast.training.curves import draw_curves
from mixfast.training.evaluating import predict_logits
from mixfast.training.feed import Batch, Feed
from mixfast.training.meter import LossMeter
from mixfast.training.optimisers import learning_rate_at, make_optimiser
from mixfast.training.precision import autocast
from mixfast.training.progress import TrainingProgress
from mixfast.training.run_directory import RunDirectory
from mixfast.training.stopping import StopRequest
from mixfast.training.synchronised_norm import average_running_statistics, synchronise_batch_norms
from mixfast.training.team import ALONE, Team
from mixfast.training.voting import Votes


class DivergedError(MixfastError):
    """The loss is not a number any more."""


@dataclass
class Position:
    """How far a run has come; all of it is saved."""

    step: int = 0  # steps done
    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_top1: float = -1.0
    train_seconds: float = 0.0
    seconds: float = 0.0


def batch_loss(network: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    """The training loss of one batch (thesis eq. A.1): what ``torch.compile`` compiles."""
    logits = network(batch.images, batch.mixing, batch.index, batch.hidden_mix).expand(*batch.target.shape, -1)
    return mixed_cross_entropy(
        logits, batch.target, batch.weight, other=batch.other, share=batch.share, smoothing=smoothing
    )


class Trainer:
    """Trains one network as a configuration says.

    Args:
        config: resolved; ``ensemble`` and ``baseline`` are the caller's business.
        network, method: made for the data.
        train_set, held_out: on the training device; ``held_out`` is evaluated while training.
        run: where everything is written.
        console: where lines and the bar go.
        team: the processes that train the network together; each calls everything, and the first one writes.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        method: Method,
        train_set: Images,
        held_out: Images,
        run: RunDirectory,
        console: Console,
        team: Team = ALONE,
    ) -> None:
        self.config, self.method, self.held_out, self.run, self.console = config, method, held_out, run, console
        self.team = team
        self.device = train_set.device
        self.network = network.to(self.device).with_layout(config.training.channels_last)
        if team.count > 1 and config.training.batch_norm == "synchronised":
            synchronise_batch_norms(self.network, team.count)
        self.feed = Feed(train_set, method, config, network.core.stem.grid(train_set.image_shape), ranks=team.ranks)
        self.steps_per_epoch = self.feed.steps_per_epoch
        self.total_steps = total_steps(config, self.steps_per_epoch)
        self.optimiser = make_optimiser(config, self.network, self.device)
        half = config.training.amp == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.average = self._make_average()
        self.position = Position()
        self.data_fingerprint = fingerprint(train_set)
        self.loss = self._make_loss()
        self.parallel = team.parallel(self.network)
        self._is_settled = False
        self.votes = Votes(team)
        self.meter = LossMeter(self.device)
        self._resumed_loss: dict[str, Any] | None = None

    @property
    def selected_network(self) -> Network:
        """The network that is evaluated and kept: the moving average where there is one."""
        return self.network if self.average is None else self.average.module

    def precision(self) -> AbstractContextManager:
        """The context that steps and predictions run in."""
        return autocast(self.device, self.config.training.amp)

    def train(self, stop: StopRequest) -> bool:
        """Trains to the end; False when ``stop`` came first (a checkpoint of that very step is then on the disk).

        Raises:
            DivergedError: the loss is not finite.
            CheckpointError, RunError, OSError: a file could not be written.
        """
        if self.position.step == 0:
            self._save()
        title = f"{self.config.model.name} {self.config.method.name}"
        # The other processes write nothing, events neither.
        writer = SummaryWriter(str(self.run.path), purge_step=self.position.epoch + 1) if self.team.is_first else None
        started, before = time.perf_counter(), self.position.seconds
        with TrainingProgress(self.console, title, self.total_steps, self.position.step) as progress:
            while self.position.step < self.total_steps:
                finished = self._train_epoch(progress, stop)
                self.position.seconds = before + time.perf_counter() - started
                if not finished:
                    self._save()
                    break
                self._finish_epoch(progress, writer)
                self.position.seconds = before + time.perf_counter() - started
                self._save()
        self.votes.close()
        if writer is not None:
            writer.close()
            self._draw_curves()
        return self.position.step >= self.total_steps

    def resume(self) -> None:
        """Puts everything back to where ``last.pt`` was written.

        Raises:
            CheckpointError: it cannot be read, or the configuration or data are not those it was written with.
        """
        state = self.team.on_first(lambda: load_checkpoint(self.run.last))
        self._check_same_run(state)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.position = Position(**state["position"])
        self._resumed_loss = state["epoch_loss"]
        self.team.on_first(lambda: self.run.keep_metrics_through(self.position.epoch))

    def _train_epoch(self, progress: TrainingProgress, stop: StopRequest) -> bool:
        """The rest of the current epoch; False when asked to stop inside it."""
        moment = Moment(self.position.epoch + 1, self.config.schedule.epochs)
        plan = self.feed.plan(moment.epoch)
        self.method.begin_epoch(self.network, moment)
        self.network.train()
        self.meter = self._meter_for_epoch()
        first = self.position.epoch * self.steps_per_epoch
        last = min(first + self.steps_per_epoch, self.total_steps)
        # A checkpoint may lie behind an epoch's last step, its evaluation still to come.
        if self.team.count > 1 and not self._is_settled and self.position.step < last:
            self._settle(self.feed.batch(plan, self.position.step - first, moment))
        batches = self.feed.batches(plan, moment, self.position.step - first)
        clock = _Clock(self.position.train_seconds)
        saved = time.monotonic()
        while self.position.step < last:
            batch = next(batches)
            self.meter.add(self._step(batch), self.position.step, len(batch.target))
            self.position.step += 1
            progress.advance()
            is_due = self.team.is_first and time.monotonic() - saved > 60 * self.config.training.checkpoint_minutes
            decided = self.votes.cast(stop=bool(stop), save=is_due)
            if decided.stop or self.position.step % self.config.training.log_every == 0:
                progress.show(clock.rate(self.meter.count) * self.feed.batch_size, self._mean_loss())
            if decided.save:
                self.position.train_seconds = clock.total()
                self._save()
                saved = time.monotonic()
            if decided.stop and self.position.step < last:
                self.position.train_seconds = clock.total()
                return False
        self._mean_loss()
        self.position.train_seconds = clock.total()
        return True

    def _step(self, batch: Batch) -> Tensor:
        rate = learning_rate_at(self.config, self.position.step, self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._add_gradients(batch)
        if self.config.optimizer.grad_clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.grad_clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        average_running_statistics(self.network, self.team)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

    def _add_gradients(self, batch: Batch) -> Tensor:
        """Leaves the gradients of the whole batch's mean loss; returns this process's mean loss."""
        parts = split_batch(batch, self.config.training.accumulation)
        stream = NETWORK_STREAM + self.position.step
        seed = int(random_keys((1,), seed=self.config.seed, stream=stream))
        losses = []
        for number, part in enumerate(parts, 1):
            # What the network draws is the step's too: every part, in every process, draws the whole batch's.
            torch.manual_seed(seed)
            if part.rows is not None:
                set_rows(self.network, part.rows, self.feed.batch_size)
            with self.team.keeping_gradients(self.parallel, number < len(parts)):
                with self.precision():
                    loss = self.loss(self.parallel, part, self.config.training.label_smoothing) / len(parts)
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        return sum(losses[1:], losses[0])

    def _draw_curves(self) -> None:
        records = self.run.read_metrics()
        if records:
            self.run.save_figure(draw_curves(records, self.config.about.title))

    def _settle(self, batch: Batch) -> None:
        """One pass for nothing, after which gradients are put into the buckets that they stay in.

        DDP chooses them by the order in which a first pass gives gradients. Where a gradient lies decides in which order
        the processes' are added up, and so a resumed run would round its first step differently.
        """
        before = [buffer.clone() for buffer in self.network.buffers()]
        self._add_gradients(batch)
        self.optimiser.zero_grad(set_to_none=True)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)
        self._is_settled = True

    def _finish_epoch(self, progress: TrainingProgress, writer: SummaryWriter | None) -> None:
        """Evaluates, records, and keeps the weights if they are the best so far."""
        self.position.epoch += 1
        epoch, last = self.position.epoch, self.position.step >= self.total_steps
        if epoch % self.config.evaluation.every != 0 and not last:
            return
        loss, logits = self._mean_loss(), self._held_out_logits()
        if writer is None:
            return
        record = {**self._training_record(loss), **self._evaluation_record(logits)}
        self.run.append_metrics(record)
        with self.run.writing(self.run.path / "events.out"):
            for name in ("loss", "lr", "images_per_second", "top1", "nll", "ece"):
                writer.add_scalar(name, record[name], epoch)
            writer.flush()
        if self.config.evaluation.select == "last" or record["top1"] > self.position.best_top1:
            self.position.best_epoch, self.position.best_top1 = epoch, record["top1"]
            save_weights(self.run.best, self.selected_network)
        progress.line(_epoch_line(record, self.config.schedule.epochs))

    def _training_record(self, loss: float) -> dict[str, Any]:
        return {
            "epoch": self.position.epoch,
            "step": self.position.step,
            "loss": loss,
            "lr": learning_rate_at(self.config, self.position.step - 1, self.steps_per_epoch),
            "images_per_second": self.images_per_second(),
            "seconds": self.position.train_seconds,
        }

    def _held_out_logits(self) -> Tensor:
        batch_size = self.config.evaluation.batch_size
        logits = predict_logits(self.selected_network, self.held_out, batch_size, self.precision(), self.team)
        if not bool(torch.isfinite(logits).all()):
            raise DivergedError(self._diverged(self.position.step - 1, "predictions"))
        return logits

    def _evaluation_record(self, logits: Tensor) -> dict[str, Any]:
        metrics = evaluate_logits(logits, self.held_out.labels, self.config.evaluation.average).to_dict()
        del metrics["calibration"]  # longer than the rest of the line; the summary has the final one
        return {"split": self.held_out.split, **metrics}

    def images_per_second(self) -> float:
        """Training samples, that is rows of a batch, a second of training time (evaluation left out)."""
        return self.position.step * self.feed.batch_size / max(self.position.train_seconds, 1e-9)

    def _mean_loss(self) -> float:
        """Of the epoch so far, over all processes.

        Raises:
            DivergedError: one of its losses was not finite.
        """
        return self._loss_total() / max(self.meter.count * self.feed.batch_size, 1)

    def _loss_total(self) -> float:
        total, bad = self.meter.read(self.team)
        if bad >= 0:
            raise DivergedError(self._diverged(bad, "loss"))
        return total

    def _diverged(self, step: int, what: str) -> str:
        good = self.team.on_first(lambda: load_checkpoint(self.run.last)["position"]["step"])
        return (
            f"the {what} stopped being finite at step {step + 1} (epoch {step // self.steps_per_epoch + 1}). The last good "
            f"checkpoint, {self.run.last}, is of step {good}. Try a lower optimizer.lr, a longer schedule.warmup_epochs, "
            "optimizer.grad_clip=1.0, or training.amp=off"
        )

    def _save(self) -> None:
        """Writes ``last.pt``; a loss that is not finite never gets there. All processes are in the same state."""
        epoch_loss = self._epoch_loss()
        if not self.team.is_first:
            return
        state = {
            "config": self.config.to_yaml(),
            "data": self.data_fingerprint,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "position": vars(self.position),
            "epoch_loss": epoch_loss,
        }
        save_checkpoint(self.run.last, state)

    def _epoch_loss(self) -> dict[str, Any] | None:
        """The running mean of an epoch that is not finished yet."""
        if self.position.step == self.position.epoch * self.steps_per_epoch or self.position.step == self.total_steps:
            return None
        return {"total": self._loss_total(), "count": self.meter.count}

    def _meter_for_epoch(self) -> LossMeter:
        meter = LossMeter(self.device)
        if self._resumed_loss is not None:
            meter.count = self._resumed_loss["count"]
            if self.team.is_first:  # it is everybody's total
                meter.total += self._resumed_loss["total"]
            self._resumed_loss = None
        return meter

    def _check_same_run(self, state: dict[str, Any]) -> None:
        saved = Config.from_text(state["config"], str(self.run.last))
        changed = differences(saved, self.config)
        if changed:
            raise CheckpointError(
                f"{self.run.last} was written with another configuration ({'; '.join(changed)}). A resumed run goes on "
                "exactly as it began: put config.yaml back, or start a new run"
            )
        if state["data"] != self.data_fingerprint:
            raise CheckpointError(
                f"{self.run.last} was written with other training data than {self.config.data.name} holds now"
            )

    def _make_average(self) -> AveragedModel | None:
        decay = self.config.training.ema_decay
        if decay is None:
            return None
        return AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def _make_loss(self) -> Callable[[Network, Batch, float], Tensor]:
        settings = self.config.training
        flops = 0.0
        if settings.compile == "auto":
            samples = self.feed.batch_size // self.team.count
            flops = training_flops(self.network, self.method.visible_inputs(), self.feed.data.image_shape, samples)
        if not should_compile(settings.compile, self.device, flops, self.total_steps):
            return batch_loss
        self.console.print("compiling the training step: the first steps take a minute")
        # Shapes never change within a run; a second run in this process must not make them symbolic.
        return torch.compile(batch_loss, dynamic=False)


class _Clock:
    """Training time of the current epoch, on top of what was spent before."""

    def __init__(self, before: float) -> None:
        self._before, self._started = before, time.perf_counter()

    def total(self) -> float:
        return self._before + time.perf_counter() - self._started

    def rate(self, steps: int) -> float:
        return steps / max(time.perf_counter() - self._started, 1e-9)


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """How many steps a run has: whole epochs, cut at ``schedule.max_steps``."""
    steps = config.schedule.epochs * steps_per_epoch
    return steps if config.schedule.max_steps is None else min(steps, config.schedule.max_steps)


def _epoch_line(record: dict[str, Any], epochs: int) -> str:
    members = record["members"]
    parts = f" ({', '.join(f'{100 * top1:.2f}' for top1 in members)})" if len(members) > 1 else ""
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['loss']:.4f}  lr {record['lr']:.3g}  "
        f"{record['split']} top1 {100 * record['top1']:.2f}{parts}  {record['images_per_second']:,.0f}/s"
    )
