"""Early stopping, the status line and the prefetcher."""

import json
import threading

import pytest
import torch

from ss4rec.data.batches.batch import PackedBatch
from ss4rec.train import prefetch as prefetch_module
from ss4rec.train import status as status_module
from ss4rec.train.prefetch import DeviceWaits, HostWaits, Prefetcher
from ss4rec.train.status import Progress, StatusLine, duration, epoch_line, say
from ss4rec.train.stopping import EarlyStopping


def test_stopping_waits_for_its_patience_and_survives_a_round_trip():
    stopping = EarlyStopping(patience=2)
    assert EarlyStopping.restore(stopping.state(), 2) == stopping
    assert [stopping.update(score, epoch) for epoch, score in enumerate([0.1, 0.3, 0.3])] == [
        True,
        True,
        False,
    ]
    assert not stopping.should_stop
    stopping = EarlyStopping.restore(stopping.state(), 2)
    assert not stopping.update(0.2, 3)
    assert stopping.should_stop
    assert (stopping.best, stopping.best_epoch) == (0.3, 1)


def test_patience_of_zero_never_stops():
    stopping = EarlyStopping(patience=0)
    for epoch in range(50):
        stopping.update(-epoch, epoch)
    assert not stopping.should_stop


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3s"), (62, "1m02s"), (7384, "2h03m")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_status_line_says_what_was_counted():
    now, lines = [0.0], []
    status = StatusLine(every_s=5.0, epochs=2, steps_per_epoch=10, emit=lines.append, clock=lambda: now[0])
    for step in range(4):
        now[0] = [1.0, 3.0, 5.0, 8.0][step]
        status.count(500)
        assert status.due == (step >= 2)
    now[0] = 8.0
    assert status.due
    figures = status.show(
        epoch=0, step=4, loss=1.5, grad_norm=0.2, lr=1e-3, waited_s=0.8, device=torch.device("cpu")
    )
    assert figures["targets_per_s"] == 250.0
    assert figures["step_ms"] == 2000.0
    assert figures["data_wait_share"] == pytest.approx(0.1)
    assert "epoch 1/2 step 4/10" in lines[0]
    # Seven seconds for the three steps after the first one, sixteen steps to go.
    assert "  at most 37s left" in lines[0]
    read = Progress.parse(f"(RayTrainWorker pid=7) {lines[0]}")
    assert (read.epoch, read.epochs, read.step, read.steps, read.loss) == (1, 2, 4, 10, "1.5000")
    assert (read.rate, read.left) == ("0.2k events/s", "at most 37s left")
    assert read.memory.endswith(" GiB")


def test_a_slow_first_step_does_not_spoil_the_forecast():
    """Compilation and the first batch took a minute; after it steps take 0.1 s."""
    now = [0.0]
    status = StatusLine(every_s=5.0, epochs=1, steps_per_epoch=1000, clock=lambda: now[0])
    assert status.left_s(0, 0) is None
    for step in range(50):
        now[0] = 60.0 + 0.1 * step
        status.count(1)
    assert status.left_s(0, 50) == pytest.approx(95.0)


def test_the_line_of_an_epoch_is_read_back():
    metrics = {"epoch": 3, "train_loss": 1.25, "elapsed_s": 9.0, "valid_hr@10": 0.5, "valid_ndcg@10": 0.25}
    read = Progress.parse(epoch_line(metrics, 9, is_best=True))
    assert (read.epoch, read.epochs, read.steps, read.valid, read.is_best) == (3, 9, 0, "0.2500", True)
    plain = Progress.parse(epoch_line({"epoch": 3, "train_loss": None, "elapsed_s": 9.0}, 9, is_best=False))
    assert (plain.loss, plain.valid, plain.is_best) == ("none", "", False)
    assert Progress.parse("epoch 3 is over") is None


def batches(count, closed):
    try:
        for step in range(count):
            yield (
                0,
                step,
                PackedBatch(
                    users_S=torch.tensor([step]),
                    items_T=torch.tensor([1, 2]),
                    targets_T=torch.tensor([2, 3]),
                    gaps_T=torch.zeros(2),
                    hours_T=torch.zeros(2, dtype=torch.int64),
                    ratings_T=torch.zeros(2),
                    profiles_TF=torch.zeros(2, 0, dtype=torch.int64),
                    offsets_S1=torch.tensor([0, 2]),
                    rows_R=torch.tensor([0, 1]),
                ),
            )
    finally:
        closed.set()


def test_prefetcher_keeps_order_and_closes_its_source():
    closed = threading.Event()
    seen = [batch.step for batch in Prefetcher(batches(20, closed), torch.device("cpu"))]
    assert seen == list(range(20))
    assert closed.is_set()


def test_leaving_early_closes_the_source():
    closed = threading.Event()
    for batch in Prefetcher(batches(10_000, closed), torch.device("cpu")):
        if batch.step == 3:
            break
    assert closed.wait()


def test_an_error_in_the_source_reaches_the_training_thread():
    def broken():
        yield from batches(1, threading.Event())
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(Prefetcher(broken(), torch.device("cpu")))


class FakeDevice:
    """A GPU of which `now` says how far the host is and `busy_until` when its queue will be empty, in ms."""

    def __init__(self) -> None:
        self.now = self.busy_until = 0.0

    def event(self) -> "FakeDevice.Event":
        return self.Event(self, max(self.now, self.busy_until))

    class Event:
        def __init__(self, device, at):
            self.device, self.at = device, at

        def query(self):
            return self.device.now >= self.at

        def synchronize(self):
            self.device.now = max(self.device.now, self.at)

        def elapsed_time(self, later):
            return later.at - self.at


def test_only_waits_of_an_idle_gpu_count(monkeypatch):
    """Seen to fail: with the time of the host added up; with pairs that were passed counted twice."""
    device = FakeDevice()
    monkeypatch.setattr(prefetch_module, "_timed_event", device.event)
    waits = DeviceWaits()
    for busy_until, host_waits in ((100.0, 40.0), (100.0, 50.0), (100.0, 30.0), (300.0, 10.0)):
        device.busy_until = busy_until
        with waits:
            device.now += host_waits
    assert len(waits._pairs) == 1  # the last is behind a queue of 170 ms, the others were passed
    assert waits.take_s() == pytest.approx(0.020)  # of the third
    assert waits.take_s() == 0.0
    with waits:
        device.now += 5.0
    assert waits.take_s() == pytest.approx(0.005)


def test_waits_of_the_host_add_up(monkeypatch):
    now = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(prefetch_module.time, "perf_counter", lambda: next(now))
    waits = HostWaits()
    for _ in range(2):
        with waits:
            pass
    assert waits.take_s() == 2.5
    assert waits.take_s() == 0.0


def test_json_lines_carry_run_worker_and_step(monkeypatch, capsys):
    """Seen to fail: with the fields of `log_as` left out."""
    monkeypatch.setattr(status_module, "_context", {})
    say("as text")
    monkeypatch.setenv(status_module.LOG_VARIABLE, "json")
    status_module.log_as(run="r1", worker=3)
    say("epoch 1/2", step=17)
    say("warning: a thing")
    text, first, second = capsys.readouterr().out.splitlines()
    assert text == "as text"
    first, second = json.loads(first), json.loads(second)
    assert (first["run"], first["worker"], first["step"], first["level"]) == ("r1", 3, 17, "info")
    assert (first["message"], second["level"]) == ("epoch 1/2", "warning")
