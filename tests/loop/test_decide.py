"""What the loop decides: a table of cases."""

import pytest

from drift.report.contents import Verdict
from ss4rec.loop.decide import Facts, State, Training, decide
from ss4rec.loop.settings import DecideConfig

NAMES = ("w1", "w2", "w3")


def verdict(now="none", new=None, since=None, action="nothing", wait_for="", severity=None):
    words = f"It is {now}."
    return Verdict(
        severity=severity or now,
        now=now,
        new=new or now,
        since=since,
        sentence=words,
        action=action,
        wait_for=wait_for,
    )


def facts(new=("w3",), incomplete=False, **verdicts):
    names = ("pipeline", "data", "unseen", "model_fall", "regret")
    found = {name: verdict() for name in names}
    for name, one in verdicts.items():
        found[name] = verdict(one) if isinstance(one, str) else one
    return Facts(**found, windows=NAMES, new_windows=new, incomplete=incomplete)


def warm(ended, promoted=True):
    return Training(ended, "warm", promoted)


FAULT = verdict("severe", since="w2", action="look")
CASES = {
    "all is well": (facts(), State(), {}, "nothing", None, "It is none"),
    "no champion": (facts(), State(has_champion=False), {}, "retrain", "cold", "no champion yet"),
    "no champion, and a fault is not looked for": (
        facts(pipeline=FAULT), State(has_champion=False), {}, "retrain", "cold", "first model"),
    "the model fell": (facts(model_fall="drift"), State(), {}, "retrain", "warm", "the champion's weights"),
    "popularity is better": (facts(regret="severe"), State(), {}, "retrain", "warm", "It is severe"),
    "too much is unseen": (facts(unseen="drift"), State(), {}, "retrain", "warm", "It is drift"),
    "without a model only unseen items count": (
        facts(model_fall=None, regret=None, unseen="drift"), State(), {}, "retrain", "warm", "It is drift"),
    "a change of taste the model bears": (facts(data="severe"), State(), {}, "nothing", None, "does not suffer"),
    "noted is no alarm": (facts(model_fall="noted", data="noted"), State(), {}, "nothing", None, "It is noted"),
    "only severe counts": (facts(model_fall="drift"), State(), {"retrain_at": "severe"}, "nothing", None, "drift"),
    "only severe counts, and it is": (
        facts(model_fall="severe"), State(), {"retrain_at": "severe"}, "retrain", "warm", "severe"),
    "a fault of the pipeline": (facts(pipeline=FAULT), State(), {}, "look", None, "Nothing is trained on this"),
    "a fault blocks retraining": (
        facts(pipeline=FAULT, model_fall="severe", regret="severe", unseen="severe"), State(), {}, "look", None,
        "until somebody has looked"),
    "a fault that is over but new blocks": (
        facts(pipeline=verdict("none", new="severe", since="w3")), State(), {}, "look", None, "It is none"),
    "an old fault that is over does not": (
        facts(pipeline=verdict("none", severity="severe", since="w1"), model_fall="drift"), State(), {}, "retrain",
        "warm", "It is drift"),
    "a fault blocks whatever the age": (
        facts(pipeline=FAULT), State(champion_age=99), {"max_age": 3}, "look", None, "Nothing is trained"),
    "somebody has looked": (
        facts(pipeline=FAULT, model_fall="drift"), State(cleared="w2"), {}, "retrain", "warm", "It is drift"),
    "somebody has looked, and found nothing": (facts(pipeline=FAULT), State(cleared="w3"), {}, "nothing", None, "none"),
    "somebody has looked before it began": (facts(pipeline=FAULT), State(cleared="w1"), {}, "look", None, "--clear"),
    "somebody has looked at another champion's windows": (
        facts(pipeline=FAULT), State(cleared="v9"), {}, "look", None, "--clear"),
    "a hole in the report": (facts(incomplete=True), State(), {}, "look", None, "no all-clear"),
    "a hole blocks retraining": (
        facts(incomplete=True, model_fall="severe"), State(), {}, "look", None, "A part of the report failed"),
    "undecided": (
        facts(model_fall=verdict("undecided", wait_for="300 users are asked for")), State(), {}, "wait", None,
        "Undecided: 300 users are asked for."),
    "undecided data": (facts(data="undecided", model_fall=None), State(), {}, "wait", None, "Undecided: It is und"),
    "undecided, but too much is unseen": (
        facts(model_fall="undecided", unseen="severe"), State(), {}, "retrain", "warm", "It is severe"),
    "nothing has ended": (facts(new=()), State(), {}, "nothing", None, "No window has ended"),
    "nothing has ended, but the fall is still there": (
        facts(new=(), model_fall="drift"), State(), {}, "retrain", "warm", "It is drift"),
    "cool-down": (
        facts(model_fall="drift"), State(ended_windows=5, trainings=(warm(5),)), {"cool_down": 1}, "wait", None,
        "0 windows ago, and 1 must pass."),
    "cool-down is over": (
        facts(model_fall="drift"), State(ended_windows=6, trainings=(warm(5),)), {}, "retrain", "warm", "drift"),
    "cool-down doubles after a failure": (
        facts(model_fall="drift"), State(ended_windows=6, trainings=(warm(5, False),)), {}, "wait", None,
        "2 must pass, doubled for each of the last 1"),
    "and again": (
        facts(model_fall="drift"), State(ended_windows=8, trainings=(warm(3, False), warm(5, False))), {}, "wait",
        None, "4 must pass"),
    "a promotion ends the doubling": (
        facts(model_fall="drift"), State(ended_windows=7, trainings=(warm(3, False), warm(6))), {}, "retrain", "warm",
        "drift"),
    "no cool-down": (
        facts(model_fall="drift"), State(ended_windows=5, trainings=(warm(5, False),)), {"cool_down": 0}, "retrain",
        "warm", "drift"),
    "the budget is spent": (
        facts(model_fall="drift"), State(ended_windows=9, trainings=(warm(3), warm(6))),
        {"budget": 2, "budget_windows": 8}, "wait", None, "2 trainings in the last 8 windows, 2 are allowed"),
    "the budget is free again": (
        facts(model_fall="drift"), State(ended_windows=12, trainings=(warm(3), warm(6))),
        {"budget": 2, "budget_windows": 8}, "retrain", "warm", "drift"),
    "budget does not hold back a look": (
        facts(pipeline=FAULT), State(ended_windows=9, trainings=(warm(9),)), {"budget": 1}, "look", None, "looked"),
    "no window has ended since the cut": (None, State(), {}, "nothing", None, "since the champion's cut"),
    "the past is another": (None, State(past_changed="it was cut elsewhere."), {}, "look", None, "events came late"),
    "the past is another, and right": (
        None, State(past_changed="cut elsewhere", past_cleared=True), {}, "retrain", "cold", "they are right now"),
    "the past is another, but a training was just made": (
        None, State(past_changed="cut elsewhere", past_cleared=True, ended_windows=3, trainings=(warm(3),)), {}, "wait",
        None, "1 must pass"),
    "nothing to train on but the gate": (
        facts(model_fall="severe"), State(spare_windows=0), {}, "wait", None, "one more must end"),
    "age": (facts(), State(champion_age=6), {"max_age": 6}, "retrain", "warm", "6 windows old; 6 are allowed"),
    "not old yet": (facts(), State(champion_age=5), {"max_age": 6}, "nothing", None, "none"),
    "always from nothing": (facts(model_fall="drift"), State(), {"how": "cold"}, "retrain", "cold", "from nothing"),
    "every third from nothing": (
        facts(model_fall="drift"), State(ended_windows=9, trainings=(warm(1), warm(3))), {"cold_every": 3}, "retrain",
        "cold", "from nothing"),
    "a cold one not long ago": (
        facts(model_fall="drift"), State(ended_windows=9, trainings=(Training(1, "cold", True), warm(3))),
        {"cold_every": 3}, "retrain", "warm", "weights"),
    "every one from nothing": (
        facts(model_fall="drift"), State(ended_windows=9, trainings=(warm(3),)), {"cold_every": 1}, "retrain", "cold",
        "from nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_case(name):
    found, state, settings, action, how, words = CASES[name]
    decision = decide(found, state, DecideConfig(**settings))
    assert (decision.action, decision.how) == (action, how), decision.reason
    assert words in decision.reason
    assert decision.reason.endswith(".")
