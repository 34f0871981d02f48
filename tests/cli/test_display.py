"""The live display, drawn at 80 columns: what it says while waiting, training, and at the end."""

import io
import re

import pytest
from rich.console import Console

from ss4rec.cli.display import Display
from ss4rec.train import status
from ss4rec.train.status import announce, on_display, say, say_panel, use_display

STATUS = (
    "epoch {}/4 step {}/40  loss 7.1000  grad 0.10  lr 1.0e-03  9.0k events/s  5 ms/step  data wait 0%  0.52 GiB  "
    "at most 1m05s left"
)


@pytest.fixture
def screen(monkeypatch):
    """A display of 80 columns, whose clock the test sets, chosen for this process."""

    class Shown:
        now = 0.0
        console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)

        def draw(self):
            paper = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
            paper.print(self.display.render())
            lines = paper.file.getvalue().splitlines()
            assert max(map(len, lines)) <= 80
            return "\n".join(line.rstrip() for line in lines)

    shown = Shown()
    shown.display = Display("ml-1m", shown.console, clock=lambda: shown.now)
    use_display(lambda: shown.display)
    yield shown
    use_display(None)


def test_it_says_what_is_being_waited_for(screen):
    with on_display():
        announce("starting a local Ray ...")
        screen.now = 12.0
        assert "ml-1m" in screen.draw()
        assert "starting a local Ray ..." in screen.draw()
        assert screen.draw().endswith("12s")


def test_of_a_text_of_several_lines_the_first_says_what_is_being_done(screen):
    """Seen to fail: with the whole text in the head, which then has several lines."""
    with on_display():
        say("2 trial(s) at a time\nthe cluster has no GPU: training on CPUs")
        (line,) = screen.draw().splitlines()
    assert "2 trial(s) at a time" in line


def test_it_draws_progress_and_lets_other_lines_scroll_by(screen):
    with on_display():
        say("1 worker with 2 CPUs")
        say("epoch 1/4 done  train loss 7.0000  valid HR@10 0.2000  NDCG@10 0.1000  best so far  (9s)")
        say("epoch 2/4 done  train loss 6.0000  valid HR@10 0.3000  NDCG@10 0.2000  best so far  (18s)")
        say("epoch 3/4 done  train loss 5.0000  valid HR@10 0.2500  NDCG@10 0.1600  (27s)")
        say(STATUS.format(4, 10))
        screen.now = 30.0
        drawn = screen.draw()
    head, run, epoch, figures, validation = drawn.splitlines()
    assert head.endswith("30s  at most 1m05s left")
    assert run.endswith("epoch 4/4")
    assert epoch.endswith("step 10/40")
    assert figures == "loss 7.1000  9.0k events/s  0.52 GiB"
    assert validation == "validation NDCG@10 0.1600 (best 0.2000, epoch 2)  ▁█▅"
    assert run.count("━") > epoch.count("━") > 5 or "╸" in run
    assert "1 worker with 2 CPUs" in screen.console.file.getvalue()


def test_long_lines_break_between_words(screen):
    """Seen to fail: with `soft_wrap`, the terminal breaks them where it ends."""
    with on_display():
        say("worker " * 30)
    told = re.sub(r"\x1b\[[?\d]*\w", "", screen.console.file.getvalue()).splitlines()
    words = [line.split() for line in told if line.startswith("worker")]
    assert max(map(len, told)) <= 80
    assert words == [["worker"] * 11, ["worker"] * 11, ["worker"] * 8]


def test_bars_never_run_backwards_between_epochs(screen):
    display = screen.display
    display.line(STATUS.format(1, 39))
    assert "epoch 1/4" in screen.draw()
    display.line("epoch 1/4 done  train loss 7.0000  (9s)")
    assert "epoch 2/4" in screen.draw()
    assert "step 0/40" in screen.draw()
    display.line("epoch 4/4 done  train loss 7.0000  (9s)")
    assert "step 40/40" in screen.draw()


def test_a_sweeps_table_replaces_the_one_before(screen):
    with on_display():
        say_panel(["1/4 trials done", "  0 ended"])
        say_panel(["2/4 trials done", "  0 ended", "  1 ended"])
        assert "1/4" not in screen.draw()
        assert "2/4 trials done" in screen.draw()


def test_without_a_display_lines_go_where_they_belong(capsys):
    announce("waiting")
    say("a line")
    say_panel(["one", "two"])
    assert capsys.readouterr() == ("a line\none\ntwo\n", "waiting\n")


def test_json_lines_are_never_drawn(screen, monkeypatch, capsys):
    monkeypatch.setenv("SS4REC_LOG", "json")
    with on_display():
        say("a line")
    assert '"message": "a line"' in capsys.readouterr().out


def test_a_display_inside_a_display_is_the_same(screen):
    with on_display(), on_display():
        assert len(status._screens) == 2
    assert len(status._screens) == 1
