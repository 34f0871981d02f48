"""Plans of a training's length, on a clock that the test sets."""

import math

import pytest

from ss4rec.config import OptimConfig, TrainConfig
from ss4rec.train.divergence import Course
from ss4rec.train.pace import Pace


def run(step_s, *, minutes=1.0, epochs=90, steps_per_epoch=50, fit=True):
    """Train with steps of `step_s(step)` seconds; return the pace and the seconds that it took."""
    train = TrainConfig(epochs=epochs, max_minutes=minutes, fit_minutes=fit)
    pace = Pace(train, OptimConfig(schedule="cosine", warmup_steps=20), steps_per_epoch)
    step, elapsed_s = 0, 0.0
    while not pace.done(step):
        elapsed_s += step_s(step)
        step += 1
        if step % 8 == 0 and (plan := pace.look(step, elapsed_s, first_step=0)):
            pace.plan(plan)
    return pace, elapsed_s


def test_a_slow_machine_plans_less_and_ends_in_time():
    pace, elapsed_s = run(lambda step: 0.1)
    assert 45 < elapsed_s < 63
    assert pace.epochs < 90
    assert pace.lr(pace.total_steps - 1) < 0.06 * pace.lr(60)


def test_a_fast_machine_trains_all_epochs():
    pace, _elapsed_s = run(lambda step: 0.001)
    assert not pace.planned
    assert pace.epochs == 90


def test_compilation_at_the_start_does_not_shorten_the_training_for_good():
    slow_start, _ = run(lambda step: 15.0 if step == 0 else 0.05 if step < 100 else 0.01)
    assert slow_start.total_steps > 3_000


def test_an_epoch_longer_than_the_time_ends_within_it():
    pace, elapsed_s = run(lambda step: 0.5, epochs=5, steps_per_epoch=1_000)
    assert pace.total_steps < 1_000
    assert elapsed_s < 65


def test_a_plan_that_is_corrected_near_its_end_is_never_shorter_than_what_is_done():
    step_s = [0.09 if step < 540 else 0.13 for step in range(10_000)]
    pace, elapsed_s = run(lambda step: step_s[step], epochs=5, steps_per_epoch=500)
    assert pace.total_steps > 540
    assert elapsed_s < 75


def test_without_fit_minutes_the_clock_changes_no_plan():
    pace, _ = run(lambda step: 0.1, fit=False, epochs=3)
    assert (pace.total_steps, pace.planned) == (150, False)


def test_a_short_plan_warms_up_shortly():
    pace = Pace(
        TrainConfig(epochs=1, max_minutes=1.0, fit_minutes=True), OptimConfig(lr=1.0, warmup_steps=500), 50
    )
    assert pace.lr(9) == pytest.approx(1.0)


def test_a_warm_start_warms_up_shortly():
    train = TrainConfig(epochs=100, start_from="runs/first", warm_share=1.0)
    pace = Pace(train, OptimConfig(lr=1.0, warmup_steps=500), 50)
    assert (pace.lr(24), pace.lr(49)) == (pytest.approx(0.5), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("losses", "diverges"),
    [
        ([8.0, 6.0, 5.5, 5.4, 5.3], False),
        ([8.0, 6.0, 5.5, 5.8, 5.5, 5.9], False),  # noise
        ([8.0, 6.0, 5.5, 7.1, 7.1], True),
        ([8.0, 6.0, 5.5, 7.1, 5.6, 7.1], False),  # one stretch alone is no course
        ([8.0, 9.0, 9.5], False),  # nothing was learned that could be lost
    ],
)
def test_a_loss_that_climbs_far_above_its_best_diverges(losses, diverges):
    course = Course()
    assert any(course.diverged(loss) for loss in losses) == diverges


def test_a_warm_start_may_climb_while_its_rate_rises():
    course = Course(uniform=math.log(5417))
    # Looks of a warm start that ended better than it began.
    losses = [4.95, 4.99, 5.08, 5.10, 5.09, 5.06, 4.96, 4.89, 4.96, 4.96]
    assert not any(course.diverged(loss) for loss in losses)
    assert [course.diverged(loss) for loss in (6.9, 7.0)] == [False, True]


def test_only_news_is_told():
    pace = Pace(TrainConfig(epochs=6, max_minutes=1, fit_minutes=True), OptimConfig(), 50)
    assert [pace.plan(steps) for steps in (180, 190, 170, 140)] == [True, False, False, True]
