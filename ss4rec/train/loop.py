"""The training loop: pure torch, the same for one process and many, on CPU and GPU.

Three rules keep it exact:

- the order of batches is f(seed, epoch, step), see `ss4rec.data.batches.epoch_order`;
- random numbers of a step are f(seed, step, rank), so no random state needs saving and a resumed run draws the same;
- the loss of a step is the mean over the targets of all workers, whatever each worker got.

Who calls whom: `run` -> `ray_train` -> `worker` -> `loop` -> `step`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ss4rec.config import RunConfig
from ss4rec.data.batches.source import SequenceSource
from ss4rec.errors import CheckpointError, NonFiniteError
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.train import resume
from ss4rec.train.divergence import LOWER, MOST_RETURNS, ClimbedError, Course
from ss4rec.train.fixed_shapes import Stager
from ss4rec.train.group import Workers
from ss4rec.train.hooks import Hooks
from ss4rec.train.objective import Objective
from ss4rec.train.outcome import Outcome, StepNote
from ss4rec.train.pace import Pace, planned_epochs, planned_minutes
from ss4rec.train.prefetch import DeviceBatch, Prefetcher
from ss4rec.train.resume import LoopState
from ss4rec.train.saver import Saver
from ss4rec.train.status import StatusLine, duration, epoch_line, log_is_json, say
from ss4rec.train.step import TrainStep, autocast
from ss4rec.train.stopping import EarlyStopping
from ss4rec.train.tracking import Tracker
from ss4rec.train.watchdog import Watchdog

SCORE = "ndcg@10"
"""The validation metric that picks the best epoch."""
_LOOK_EVERY = 64
"""Steps on a GPU between two looks at the guard; each look waits for the device."""


class TrainLoop:
    """Trains `objective` on this worker's share of `source`.

    Args:
        config: the run.
        objective: model and loss.
        source: batches in order.
        workers: this process's place in the group.
        folder: the run folder; only the main worker writes.
        validate: returns validation metrics, equal on all workers.
        hooks: what the host wants to be told.
        identity: facts stored in each checkpoint and compared on resume.
        graphs: replay steps as CUDA graphs; see `choose_graphs`.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        source: SequenceSource,
        workers: Workers,
        folder: RunFolder,
        validate: Callable[[], dict[str, float]],
        *,
        hooks: Hooks | None = None,
        identity: Mapping[str, str] | None = None,
        graphs: bool = False,
    ) -> None:
        self.config, self.objective, self.model, self.source = config, objective, objective.model, source
        self.workers, self.folder, self.validate = workers, folder, validate
        self.hooks, self.identity = hooks or Hooks(), identity or {}
        self.noticed, self.saver = "", Saver()
        self.watchdog = Watchdog(0.9 * config.resources.timeout_s)
        # Of worker 0, who has as many as anyone: all have the same shapes, as gathering rows wants.
        max_windows = int(source.order.share_sizes(0, workers.world).max())
        self.stager = Stager(max_windows, config.data.max_len) if graphs else None
        self.take_step = TrainStep(config, objective, workers, self.stager)
        self.guard = self.take_step.guard
        self.stopping = EarlyStopping(config.train.patience)
        self.steps_per_epoch = source.steps_per_epoch(0)
        self.pace = Pace(config.train, config.optim, self.steps_per_epoch)
        self.course, self.stretch = Course(objective.uniform_loss), (0.0, 0.0)
        self.returns = 0
        """Times that training went back to a checkpoint since its loss had climbed."""
        self.epoch = self.step = self.global_step = 0
        self.elapsed_before_s = 0.0
        self.recent: deque[StepNote] = deque(maxlen=2 * _LOOK_EVERY)
        """Notes of the last steps."""
        self.begins_warm = False
        """Whether the weights are the first ones of a warm start, which nobody has validated yet."""
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
            if self.hooks.report and (metrics["ended"] or self._report_due):
                self.hooks.report(metrics)
                self.reported_at = time.monotonic()
        return self.outcome()

    def epochs(self) -> Generator[dict[str, Any], None, None]:
        """Train from the last intact checkpoint (or the start) to the end; give each epoch's metrics as it is done.

        A caller that stops iterating ends the training there, in order: `close()` the iterator. `ended` in the
        metrics is empty but for the last epoch. Raises as `run`.
        """
        self._resume()
        self.began = self.saved_at = self.reported_at = time.monotonic()
        self.tracker = Tracker(self.folder, self.config) if self.workers.is_main else None
        self.status = StatusLine(
            self.config.train.status_every_s, self.pace.epochs, self.steps_per_epoch, emit=self._say
        )
        self.ended = self._why_end()
        if self.begins_warm:
            self._validate_start()
        try:
            while not self.ended:
                try:
                    yield from self._train()
                except ClimbedError as climbed:
                    self._go_back(climbed)
        finally:
            self.watchdog.close()
            self.saver.finish(self._say)
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
        batches = self.source.train_batches(self.epoch, self.step, planned_epochs(self.config.train))
        self.prefetcher = Prefetcher(batches, self.workers.device, self.stager)
        self.objective.train()
        self._begin_epoch()
        begun_at = self.begun_at = self.global_step
        with closing(self.prefetcher.__iter__()) as prefetched:
            for batch in prefetched:
                if self.global_step == begun_at:
                    self._compile_kernels(batch)
                self._train_step(batch)
                if self.workers.is_main and self.global_step == begun_at + 1:
                    self.hooks.first_step()
                if self.step == self.steps_per_epoch or self.pace.done(self.global_step):
                    yield self._end_epoch()
                    if self.ended:
                        return
                    self._begin_epoch()
                elif self.workers.is_main and self._save_is_due():
                    self._save(score=None)

    def _compile_kernels(self, batch: DeviceBatch) -> None:
        began = time.monotonic()
        if kernels := self.take_step.compile_kernels(batch):
            self._say(
                f"{kernels} kernels compiled, or read from Triton's cache, in {duration(time.monotonic() - began)}"
            )

    def _begin_epoch(self) -> None:
        """Start the clock of an epoch (of what is left of it, after a restart)."""
        self.epoch_began, self.targets_before = time.monotonic(), float(self.take_step.sums[1])

    def _save_is_due(self) -> bool:
        """Whether a checkpoint between epochs is due: by the clock, or once when the machine is about to go."""
        if not self.noticed and (reason := self.hooks.notice()):
            self.noticed = reason
            self._say(f"notice: {reason}; writing a checkpoint of step {self.global_step} now")
            return True
        return time.monotonic() - self.saved_at > self.config.train.checkpoint_every_s

    def _train_step(self, batch: DeviceBatch) -> None:
        self.saver.look()
        self.watchdog.feed()
        seed_step(self.config.train.seed, self.global_step, self.workers.rank)
        lr = self._lr()
        own_loss = self.take_step(batch, self.global_step, lr)
        self.recent.append(StepNote(batch.epoch, batch.step, self.global_step, batch.first_users, own_loss))
        self.status.count(batch.num_targets * self.workers.world)
        self.step, self.global_step = batch.step + 1, self.global_step + 1
        if self.workers.device.type == "cpu" or self.global_step % _LOOK_EVERY == 0:
            self._check_finite()
        often = self.workers.device.type == "cpu" or self.global_step - self.begun_at <= 3
        if self.global_step % _LOOK_EVERY == 0 or (self.config.train.fit_minutes and often):
            self._check_course()
        if self.status.due:
            self._show_status(lr)

    def _lr(self) -> float:
        return LOWER**self.returns * self.pace.lr(self.global_step)

    def _check_course(self) -> None:
        """Look at loss and time; all workers call it.

        Raises:
            ClimbedError: on all workers together, if the loss has climbed far above its best.
        """
        planned = self.pace.look(self.global_step, self.elapsed_s, self.begun_at)
        if planned := self.workers.from_main(planned):
            news = self.pace.plan(planned)
            self.status.epochs = self.pace.epochs
            if news:
                self._say(
                    f"{planned_minutes(self.config.train):g} minutes leave time for {planned:,} steps, "
                    f"{planned / self.steps_per_epoch:.3g} epochs: the schedule ends with them"
                )
        if self.global_step % _LOOK_EVERY or self.config.train.divergence == "ignore":
            return
        loss_sum, targets = self.take_step.sums.tolist()
        loss = (loss_sum - self.stretch[0]) / max(targets - self.stretch[1], 1.0)
        self.stretch = (loss_sum, targets)
        if self.course.diverged(loss):
            raise ClimbedError(loss)

    def _go_back(self, climbed: ClimbedError) -> None:
        """Continue from the best checkpoint with half of the rate, or end; all workers call it."""
        what = (
            f"the loss has climbed to {climbed.loss:.3f} and was {self.course.best:.3f} at its best: training "
            f"diverges at a learning rate of {self._lr():.2g}"
        )
        self.saver.wait()
        saved = self.workers.from_main(resume.best_checkpoint(self.folder) if self.workers.is_main else None)
        if saved is None:
            raise NonFiniteError(
                f"{what}. There is no checkpoint to go back to; lower optim.lr or set optim.clip_norm"
            )
        if self.config.train.divergence == "stop" or self.returns == MOST_RETURNS:
            self.ended = f"{what}; lower optim.lr"
            self._say(f"warning: {self.ended}")
            return
        returns = self.returns + 1
        self._continue_from(checkpoint.read(saved))
        self.returns = returns
        self.course.again()
        self._say(f"warning: {what}. Going back to step {self.global_step} with half of the rate")

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
        note = next((note for note in self.recent if note.global_step == global_step), None)
        if note is None:
            return f"step {global_step}"
        mine = (bool(torch.isfinite(note.own_loss)), note.first_users)
        everyone = list(enumerate(self.workers.gather(mine)))
        bad = [(rank, users) for rank, (finite, users) in everyone if not finite]
        culprits = bad or [(rank, users) for rank, (_, users) in everyone]
        names = (
            f"{f'worker {rank}: ' * (self.workers.world > 1)}first users {users}" for rank, users in culprits
        )
        return f"epoch {note.epoch + 1}, step {note.step}, " + "; ".join(names)

    def _show_status(self, lr: float) -> None:
        figures = self.status.show(
            epoch=self.epoch,
            step=self.step,
            loss=float(self.take_step.loss),
            grad_norm=float(self.take_step.norm),
            lr=lr,
            waited_s=self.prefetcher.waited_s(),
            device=self.workers.device,
        )
        self.hooks.watch(figures)
        if self.tracker:
            self.tracker.log("status", self.global_step, epoch=self.epoch + 1, **figures)

    def _end_epoch(self) -> dict[str, Any]:
        """Validate, save, and return the epoch's metrics; `self.ended` says why training ends here, if it does."""
        self._check_finite()
        loss_sum, targets = self.take_step.sums.tolist()
        rate = (targets - self.targets_before) / max(time.monotonic() - self.epoch_began, 1e-9)
        self.take_step.sums.zero_()
        self.stretch = (0.0, 0.0)
        self.watchdog.feed()
        epoch = self.epoch + 1
        if self.step == self.steps_per_epoch:  # else the time ends training within an epoch
            self.epoch, self.step = epoch, 0
        metrics: dict[str, Any] = {
            "train_loss": loss_sum / targets if targets else None,
            "events_per_s": round(rate, 1),
        }
        train = self.config.train
        is_best = False
        if epoch % train.validate_every == 0 or self.pace.done(self.global_step):
            metrics |= {f"valid_{name}": value for name, value in self._validate().items()}
            is_best = self.stopping.update(metrics[f"valid_{SCORE}"], epoch - 1)
        self._report_due, self.ended = self.workers.from_main(
            (time.monotonic() - self.reported_at >= train.report_every_s, self._why_end())
        )
        metrics |= {
            "epoch": epoch,
            "bad_steps": self.guard.bad_steps,
            "elapsed_s": round(self.elapsed_s, 3),
            "ended": self.ended,
        }
        self.hooks.watch(metrics)
        if self.workers.is_main:
            self._say(epoch_line(metrics, self.pace.epochs, is_best))
            if self.tracker:
                self.tracker.log("epoch", self.global_step, **metrics)
            if is_best or self.ended or time.monotonic() - self.saved_at > train.checkpoint_every_s:
                self._save(score=metrics.get(f"valid_{SCORE}"))
        return metrics

    def _validate(self) -> dict[str, float]:
        """Validate the weights that would be served (their moving average, where one is kept)."""
        self.objective.eval()
        with (
            self.take_step.served_weights(),
            torch.inference_mode(),
            autocast(self.config.train.precision, self.workers.device),
        ):
            metrics = self.validate()
        self.objective.train()
        return metrics

    def _validate_start(self) -> None:
        """Validate the weights of a warm start, so that they stay the best where training makes nothing better."""
        metrics = {f"valid_{name}": value for name, value in self._validate().items()}
        self.begins_warm = False
        self.stopping.update(metrics[f"valid_{SCORE}"], -1)
        self.watchdog.feed()
        if self.tracker:
            start = {"train_loss": None, "events_per_s": 0.0, "bad_steps": 0, "ended": ""}
            self.tracker.log("epoch", 0, epoch=0, elapsed_s=round(self.elapsed_s, 3), **start, **metrics)
            self._say(f"first weights: validation {SCORE} {self.stopping.best:.4f}")
            self._save(score=self.stopping.best)

    def _why_end(self) -> str:
        """Return why training ends here, in words; empty if it goes on."""
        train = self.config.train
        if self.source.nothing_new:
            return f"nothing is new since {Path(train.start_from).name or train.start_from}"
        if self.pace.done(self.global_step):
            return f"all {self.pace.epochs} epochs done"
        if self.stopping.should_stop:
            return f"no better validation {SCORE} for {self.stopping.waited} validations"
        if train.max_minutes and self.elapsed_s > 60 * planned_minutes(train):
            return f"{planned_minutes(train):g} minutes passed"
        return ""

    def _save(self, score: float | None) -> None:
        """Begin to write a checkpoint of this moment (main worker only), and wait for it where nothing may follow."""
        if self.guard.first_bad_step is not None:
            return  # training ends at the next look, on all workers together; the checkpoint before is the good one
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "global_step": self.global_step,
            "score": score,
            "stopping": self.stopping.state(),
            "bad_steps": self.guard.bad_steps,
            "elapsed_s": self.elapsed_s,
            "sums": self.take_step.sums.tolist(),
            "planned_steps": self.pace.total_steps if self.pace.planned else None,
            "returns": self.returns,
            **self.identity,
        }
        keep = self.config.train.keep_checkpoints
        resume.save(
            self.saver,
            self.folder.checkpoints,
            self.take_step,
            state,
            keep=keep,
            may_write=self.hooks.may_write,
        )
        self.saved_at = time.monotonic()
        if self.noticed or self.ended or not self.config.train.checkpoint_every_s:
            self.saver.wait()
            self.hooks.saved()

    def _resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        newest = resume.newest_checkpoint(self.folder, self._say) if self.workers.is_main else None
        path = self.workers.from_main(newest)
        if isinstance(path, CheckpointError):
            raise path
        if path is None:
            return
        self.elapsed_before_s = self._continue_from(checkpoint.read(path)).elapsed_s
        if self.workers.is_main and not self.begins_warm:
            self._say(f"continuing {self.folder.path.name} at epoch {self.epoch + 1}, step {self.step}")

    def _continue_from(self, saved: checkpoint.Checkpoint) -> LoopState:
        """Take weights, state and place of a checkpoint; return the state."""
        resume.require_same_run(saved, self.identity, self.folder.earlier_fingerprints())
        train = self.config.train
        state = LoopState.of(saved, epochs=planned_epochs(train), steps_per_epoch=self.steps_per_epoch)
        resume.restore(saved, self.take_step, state)
        self.epoch, self.step, self.global_step = state.epoch, state.step, state.global_step
        self.stopping = EarlyStopping.restore(state.stopping.model_dump(), train.patience)
        self.returns, self.stretch = state.returns, state.sums
        self.begins_warm = state.global_step == 0 and state.stopping.best is None
        if state.planned_steps is not None:
            self.pace.plan(state.planned_steps)
        if self.workers.is_main:
            self.folder.rewind_metrics(saved.global_step)
        return state

    def _say(self, line: str) -> None:
        if self.workers.is_main or log_is_json():  # there each line names its worker
            say(line, step=self.global_step)


def seed_step(seed: int, global_step: int, rank: int) -> None:
    """Seed torch's generators for one step of one worker."""
    words = np.random.SeedSequence([seed, global_step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))
