"""The training loop: pure torch, the same for one process and many, on CPU and GPU.

Three rules keep it exact:

- the order of batches is f(seed, epoch, step), see `ss4rec.data.batches.epoch_order`;
- random numbers of a step are f(seed, step, rank), so no random state needs saving and a resumed run draws the same;
- the loss of a step is the mean over the targets of all workers, whatever each worker got.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ss4rec.config import RunConfig
from ss4rec.data.batches.source import SequenceSource
from ss4rec.errors import CheckpointError, NonFiniteError
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder, load_tensors, load_weights
from ss4rec.train.fixed_shapes import Stager
from ss4rec.train.group import Workers
from ss4rec.train.optim import lr_share
from ss4rec.train.prefetch import DeviceBatch, Prefetcher
from ss4rec.train.resume import LoopState, optimizer_entries
from ss4rec.train.status import StatusLine, duration, epoch_line, log_is_json, say
from ss4rec.train.step import TrainStep, autocast
from ss4rec.train.stopping import EarlyStopping
from ss4rec.train.tracking import Tracker
from ss4rec.train.watchdog import Watchdog

SCORE = "ndcg@10"
"""The validation metric that picks the best epoch."""
_LOOK_EVERY = 64
"""Steps on a GPU between two looks at the guard; each look waits for the device."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    epochs: int
    global_step: int
    best_epoch: int
    """From 1; 0 if there was no validation."""
    best_score: float
    """Validation NDCG@10 of the best epoch."""
    ended: str
    """Why training ended, in words."""
    elapsed_s: float
    """Seconds of training and validation, over all attempts."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class TrainLoop:
    """Trains `objective` on this worker's share of `source`.

    Args:
        config: the run.
        model: the bare model, whose weights are saved.
        objective: `Objective` over `model`; called with `(items_T, gaps_T, targets_T, segments, rows_R, context)`,
            returns the summed loss.
        source: batches in order.
        workers: this process's place in the group.
        folder: the run folder; only the leading worker writes.
        validate: returns validation metrics, equal on all workers.
        report: called by all workers after an epoch with its metrics, at most every `train.report_every_s`.
        identity: facts stored in each checkpoint and compared on resume.
        allowed: called before a checkpoint appears; raises if another process writes this run now.
        notice: returns why this machine is about to go, or an empty string; a checkpoint is written then at once.
        watch: told of this worker's figures at each status line and of the epoch's at its end.
        first_step: called by the leading worker when the first step after a start or restart is done.
        graphs: replay steps as CUDA graphs; see `choose_graphs`.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        model: SequenceModel,
        objective: nn.Module,
        source: SequenceSource,
        workers: Workers,
        folder: RunFolder,
        validate: Callable[[], dict[str, float]],
        report: Callable[[dict[str, Any]], None] | None = None,
        identity: dict[str, str] | None = None,
        allowed: Callable[[], None] = lambda: None,
        notice: Callable[[], str] = lambda: "",
        watch: Callable[[dict[str, Any]], None] = lambda figures: None,
        first_step: Callable[[], None] = lambda: None,
        graphs: bool = False,
    ) -> None:
        self.config, self.model, self.objective, self.source = config, model, objective, source
        self.workers, self.folder, self.validate, self.report = workers, folder, validate, report
        self.identity, self.allowed, self.notice, self.watch = identity or {}, allowed, notice, watch
        self.first_step = first_step
        self.noticed = ""
        self.watchdog = Watchdog(0.9 * config.resources.timeout_s)
        self.parameters = list(model.parameters())
        most_windows = int(source.order.share_sizes(workers.rank, workers.world).max())
        self.stager = Stager(most_windows, config.data.max_len) if graphs else None
        self.take_step = TrainStep(config, model, objective, workers, self.stager)
        self.optimizer, self.guard, self.average, self.sums = (
            self.take_step.optimizer,
            self.take_step.guard,
            self.take_step.average,
            self.take_step.sums,
        )
        self.stopping = EarlyStopping(config.train.patience)
        self.steps_per_epoch = source.steps_per_epoch(0)
        self.epoch = self.step = self.global_step = 0
        self.elapsed_before_s = 0.0
        self.recent: deque[tuple[int, int, int, list[int], Tensor]] = deque(maxlen=2 * _LOOK_EVERY)
        """Epoch, step, global step, first users and this worker's own loss of the last steps."""
        self.ended = ""
        """Why training ended, in words; empty while it goes on."""
        self._report_due = False

    def run(self) -> Outcome:
        """Train from the last intact checkpoint (or the start) to the end.

        Raises:
            NonFiniteError: on all workers together, if a loss or gradient is not finite.
            CheckpointError: if the last checkpoint belongs to another configuration or other data.
        """
        for metrics in self.epochs():
            if self.report and (metrics["ended"] or self._report_due):
                self.report(metrics)
                self.reported_at = time.monotonic()
        return self.outcome()

    def epochs(self) -> Generator[dict[str, Any], None, None]:
        """Train from the last intact checkpoint (or the start) to the end; give each epoch's metrics as it is done.

        A caller that stops iterating ends the training there, in order: `close()` the iterator. `ended` in the
        metrics is empty but for the last epoch. Raises as `run`.
        """
        self._resume()
        self.began = self.saved_at = self.reported_at = time.monotonic()
        self.tracker = Tracker(self.folder, self.config) if self.workers.leads else None
        self.status = StatusLine(
            self.config.train.status_every_s, self.config.train.epochs, self.steps_per_epoch, emit=self._say
        )
        self.ended = self._ended()
        try:
            if not self.ended:
                yield from self._train()
        finally:
            self.watchdog.close()
            if self.tracker:
                self.tracker.close()
        self._say(f"training ended: {self.ended}; {self.epoch} epochs in {duration(self.elapsed_s)}")

    def outcome(self) -> Outcome:
        """Return how far training got and why it ended."""
        return Outcome(
            epochs=self.epoch,
            global_step=self.global_step,
            best_epoch=self.stopping.best_epoch + 1,
            best_score=self.stopping.best,
            ended=self.ended,
            elapsed_s=self.elapsed_s,
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds of training over all attempts."""
        return self.elapsed_before_s + time.monotonic() - self.began

    def _train(self) -> Iterator[dict[str, Any]]:
        """Run epochs until one of the reasons to end holds."""
        batches = self.source.train_batches(self.epoch, self.step, self.config.train.epochs)
        self.prefetcher = Prefetcher(batches, self.workers.device, self.stager)
        self.objective.train()
        self._begin_epoch()
        begun_at = self.global_step
        with closing(self.prefetcher.__iter__()) as prefetched:
            for batch in prefetched:
                if self.global_step == begun_at:
                    self._compile_kernels(batch)
                self._train_step(batch)
                if self.workers.leads and self.global_step == begun_at + 1:
                    self.first_step()
                if self.step == self.steps_per_epoch:
                    yield self._end_epoch()
                    if self.ended:
                        return
                    self._begin_epoch()
                elif self.workers.leads and self._save_is_due():
                    self._save(score=None)

    def _compile_kernels(self, batch: DeviceBatch) -> None:
        began = time.monotonic()
        if kernels := self.take_step.compile_kernels(batch):
            self._say(
                f"{kernels} kernels compiled, or read from Triton's cache, in {duration(time.monotonic() - began)}"
            )

    def _begin_epoch(self) -> None:
        """Start the clock of an epoch (of what is left of it, after a restart)."""
        self.epoch_began, self.targets_before = time.monotonic(), float(self.sums[1])

    def _save_is_due(self) -> bool:
        """Whether a checkpoint between epochs is due: by the clock, or once when the machine is about to go."""
        if not self.noticed and (reason := self.notice()):
            self.noticed = reason
            self._say(f"notice: {reason}; writing a checkpoint of step {self.global_step} now")
            return True
        return time.monotonic() - self.saved_at > self.config.train.checkpoint_every_s

    def _train_step(self, batch: DeviceBatch) -> None:
        self.watchdog.feed()
        seed_step(self.config.train.seed, self.global_step, self.workers.rank)
        lr = self._lr()
        own_loss = self.take_step(batch, self.global_step, lr)
        self.recent.append((batch.epoch, batch.step, self.global_step, batch.first_users, own_loss))
        self.status.count(batch.num_targets * self.workers.world)
        self.step, self.global_step = batch.step + 1, self.global_step + 1
        if self.workers.device.type == "cpu" or self.global_step % _LOOK_EVERY == 0:
            self._check_finite()
        if self.status.due:
            self._show_status(float(self.take_step.loss), float(self.take_step.norm), lr)

    def _lr(self) -> float:
        total = self.config.train.epochs * self.steps_per_epoch
        return self.config.optim.lr * lr_share(self.global_step, total_steps=total, config=self.config.optim)

    def _check_finite(self) -> None:
        """Raise on all workers together if more steps were bad than may be skipped; all workers call it."""
        first = self.guard.first_bad_step
        if first is None:
            return
        raise NonFiniteError(
            f"loss or gradient is not finite at global step {first} ({self._blame(first)}); weights are as before "
            f"and the last checkpoint is good. Lower optim.lr (now {self.config.optim.lr}) or set optim.clip_norm, or "
            "pass --skip-bad-steps N to skip such batches"
        )

    def _blame(self, global_step: int) -> str:
        """Name epoch, step and the users of the workers whose own loss is not finite (of all if none is)."""
        place = next((row for row in self.recent if row[2] == global_step), None)
        if place is None:
            return f"step {global_step}"
        epoch, step, _, first_users, loss = place
        mine = (bool(torch.isfinite(loss)), first_users)
        everyone = list(enumerate(self.workers.gather(mine)))
        bad = [(rank, users) for rank, (finite, users) in everyone if not finite]
        culprits = bad or [(rank, users) for rank, (_, users) in everyone]
        names = (
            f"{f'worker {rank}: ' * (self.workers.world > 1)}first users {users}" for rank, users in culprits
        )
        return f"epoch {epoch + 1}, step {step}, " + "; ".join(names)

    def _show_status(self, loss: float, norm: float, lr: float) -> None:
        figures = self.status.show(
            epoch=self.epoch,
            step=self.step,
            loss=loss,
            grad_norm=norm,
            lr=lr,
            waited_s=self.prefetcher.waited_s(),
            device=self.workers.device,
        )
        self.watch(figures)
        if self.tracker:
            self.tracker.log("status", self.global_step, epoch=self.epoch + 1, **figures)

    def _end_epoch(self) -> dict[str, Any]:
        """Validate, save, and return the epoch's metrics; `self.ended` says why training ends here, if it does."""
        self._check_finite()
        loss_sum, targets = self.sums.tolist()
        rate = (targets - self.targets_before) / max(time.monotonic() - self.epoch_began, 1e-9)
        self.sums.zero_()
        self.watchdog.feed()
        self.epoch, self.step = self.epoch + 1, 0
        metrics: dict[str, Any] = {
            "train_loss": loss_sum / targets if targets else None,
            "events_per_s": round(rate, 1),
        }
        due = self.epoch % self.config.train.validate_every == 0 or self.epoch == self.config.train.epochs
        is_best = False
        if due:
            metrics |= {f"valid_{name}": value for name, value in self._validate().items()}
            is_best = self.stopping.update(metrics[f"valid_{SCORE}"], self.epoch - 1)
        self._report_due, self.ended = self.workers.from_leader(
            (time.monotonic() - self.reported_at >= self.config.train.report_every_s, self._ended())
        )
        metrics |= {
            "epoch": self.epoch,
            "bad_steps": self.guard.bad_steps,
            "elapsed_s": round(self.elapsed_s, 3),
            "ended": self.ended,
        }
        self.watch(metrics)
        if self.workers.leads:
            self._say(epoch_line(metrics, self.config.train.epochs, is_best))
            if self.tracker:
                self.tracker.log("epoch", self.global_step, **metrics)
            if (
                is_best
                or self.ended
                or time.monotonic() - self.saved_at > self.config.train.checkpoint_every_s
            ):
                self._save(score=metrics.get(f"valid_{SCORE}"))
        return metrics

    def _validate(self) -> dict[str, float]:
        """Validate the weights that would be served (their moving average, where one is kept)."""
        if self.average:
            self.average.swap()
        self.objective.eval()
        with torch.inference_mode(), autocast(self.config.train.precision, self.workers.device):
            metrics = self.validate()
        self.objective.train()
        if self.average:
            self.average.swap()
        return metrics

    def _ended(self) -> str:
        train = self.config.train
        if self.epoch >= train.epochs:
            return f"all {train.epochs} epochs done"
        if self.stopping.should_stop:
            return f"no better validation {SCORE} for {self.stopping.waited} validations"
        if train.max_minutes and self.elapsed_s > 60 * train.max_minutes:
            return f"{train.max_minutes:g} minutes passed"
        return ""

    def _save(self, score: float | None) -> None:
        """Write a checkpoint of this moment (leading worker only) and prune old ones."""
        if self.guard.first_bad_step is not None:
            return  # training ends at the next look, on all workers together; the checkpoint before is the good one
        training = {
            f"optimizer.{index}.{name}": tensor
            for index, entry in self.optimizer.state_dict()["state"].items()
            for name, tensor in entry.items()
        }
        if self.average:
            training |= {f"raw.{name}": tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.average.swap()
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "global_step": self.global_step,
            "score": score,
            "stopping": self.stopping.state(),
            "bad_steps": self.guard.bad_steps,
            "elapsed_s": self.elapsed_s,
            "sums": self.sums.tolist(),
            **self.identity,
        }
        checkpoint.save(
            self.folder.checkpoints,
            model=self.model.state_dict(),
            training=training,
            state=state,
            allowed=self.allowed,
        )
        if self.average:
            self.average.swap()
        checkpoint.prune(self.folder.checkpoints, self.config.train.keep_checkpoints)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        path = self.workers.from_leader(self._newest() if self.workers.leads else None)
        if isinstance(path, CheckpointError):
            raise path
        if path is None:
            return
        saved = checkpoint.read(path)
        for name, expected in self.identity.items():
            if saved.state.get(name) != expected:
                raise CheckpointError(
                    f"checkpoint {path} has {name} {saved.state.get(name)}, this run has {expected}; "
                    "choose another --name or repeat the first run's options"
                )
        self._restore(saved)
        if self.workers.leads:
            self.folder.rewind_metrics(saved.global_step)
            self._say(f"continuing {self.folder.path.name} at epoch {self.epoch + 1}, step {self.step}")

    def _newest(self) -> Path | CheckpointError | None:
        """Return the newest intact checkpoint's path, None for a run without any, or why none can be used."""
        if self.folder.checkpoints.is_dir():
            checkpoint.sweep(self.folder.checkpoints)
        found, problems = checkpoint.last(self.folder.checkpoints)
        if found is not None:
            for problem in problems:
                self._say(f"warning: {problem}; using the one before it, {found.path.name}")
            return found.path
        if problems:
            return CheckpointError(
                "no checkpoint of this run is intact, so it cannot continue:\n  "
                + "\n  ".join(problems)
                + f"\nPut a good copy back, or remove {self.folder.checkpoints} to start anew"
            )
        if rows := self.folder.metrics():
            self._say(
                f"warning: {self.folder.path.name} was at step {rows[-1]['global_step']} and has no checkpoint; "
                "training starts anew"
            )
        self.folder.rewind_metrics(-1)
        return None

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        state = LoopState.of(saved, epochs=self.config.train.epochs, steps_per_epoch=self.steps_per_epoch)
        tensors = saved.training_tensors()
        entries = optimizer_entries(saved, tensors, self.optimizer)
        load_weights(self.model, saved)
        if self.average:
            self.average.swap()  # the file's weights are the average
            raw = {name.removeprefix("raw."): t for name, t in tensors.items() if name.startswith("raw.")}
            load_tensors(self.model, raw, saved.path)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.epoch, self.step, self.global_step = state.epoch, state.step, state.global_step
        self.stopping = EarlyStopping.restore(state.stopping.model_dump(), self.config.train.patience)
        self.guard.count.fill_(state.bad_steps)
        self.sums.copy_(torch.tensor(state.sums, dtype=torch.float64))
        self.elapsed_before_s = state.elapsed_s

    def _say(self, line: str) -> None:
        if self.workers.leads or log_is_json():  # there each line names its worker
            say(line, step=self.global_step)


def seed_step(seed: int, global_step: int, rank: int) -> None:
    """Seed torch's generators for one step of one worker."""
    words = np.random.SeedSequence([seed, global_step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))
