"""The headline speaks of the newest window first, and says the same as the answers."""

import pytest

from drift.report.contents import Change, Verdict, Verdicts
from drift.report.rules import IF_WORSE
from drift.report.summary import action_on, headline, to_do, words_for

LAST = "2020Q4"


def verdict(now="none", action="nothing", sentence="As usual.", **more):
    fields = {"severity": now, "now": now, "new": now, "since": None} | more
    return Verdict(sentence=sentence, action=action, **fields)


def verdicts(**given):
    fine = {name: verdict() for name in ("pipeline", "data", "unseen", "model_fall", "regret")}
    return Verdicts(**fine | given)


def change(name="genres", last=LAST, **more):
    fields = {"kind": "taste", "first": "2019Q1", "peak": "2019Q1", "last": last, "ongoing": last == LAST}
    fields |= {"sudden": False, "severity": "drift", "ratio": 2.0, "signals": ["genre"], "details": []}
    fields |= {"sentence": f"{name} changed.", "action": IF_WORSE} | more
    return Change(name=name, **fields)


def test_a_calm_newest_window_comes_first_and_what_is_over_last():
    old = change("what is popular", last="2019Q3")
    found = headline(verdicts(data=verdict(severity="drift")), [old], LAST)
    assert found.startswith("No news in 2020Q4: the inputs are as usual. The model does not rank worse")
    assert "To do: nothing." in found
    assert found.endswith("Before 2020Q4: what is popular, 2019Q1.")
    assert action_on(old, verdicts()) == "Nothing: it is over."
    fault = change("events lost", last="2019Q3", kind="pipeline", action="Look.")
    assert "before you retrain" in action_on(fault, verdicts())


@pytest.mark.parametrize(
    ("fall", "expected"),
    [
        (None, "Give --run"),
        (verdict(), "Nothing: the model does not rank worse."),
        (verdict("undecided", "wait", wait_for="25 users are too few"), "Wait"),
        (verdict("severe", "retrain"), "Retrain on newer data"),
    ],
)
def test_advice_on_a_change_agrees_with_the_models_part(fall, expected):
    """`Retrain if the model ranks worse` is said of no report that knows whether it does."""
    given = verdicts(data=verdict("drift"), model_fall=fall, regret=None)
    going = change()
    resolved = going.model_copy(update={"action": action_on(going, given)})
    assert resolved.action.startswith(expected)
    said = headline(given, [resolved], LAST)
    assert "if the model ranks worse" not in said
    action = to_do(given)
    if action == "nothing":
        assert words_for("data", given, [resolved]) in said
    else:
        assert words_for("model_fall", given, [resolved]) in said


def test_a_fault_of_the_pipeline_blocks_the_advice_to_retrain():
    given = verdicts(
        pipeline=verdict("severe", "look"), model_fall=verdict("severe", "retrain", "The model ranks worse.")
    )
    said = headline(given, [change("events lost", kind="pipeline")], LAST)
    assert said.startswith("A fault of the pipeline: events lost changed. The model ranks worse.")
    assert "To do: check the logging before you retrain." in said
    assert "retrain on newer data" not in said


def test_what_would_decide_is_said_once():
    given = verdicts(model_fall=verdict("undecided", "wait", wait_for="25 users are too few"))
    said = headline(given, [], LAST)
    assert said.count("25 users are too few") == 1
    assert "Whether the model ranks worse is undecided." in said


def test_an_undecided_newest_window_does_not_hide_an_earlier_fall():
    fall = verdict("undecided", "wait", severity="severe", wait_for="25 users are too few")
    assert "The model ranked worse before; whether it still does is undecided." in headline(
        verdicts(model_fall=fall), [], LAST
    )
