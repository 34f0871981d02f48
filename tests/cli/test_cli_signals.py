"""SIGINT and SIGTERM in every verb, new ones too: one line, exit code 130.

Each row is a call and the function in which the signal arrives. What a training, a sweep and `data prepare` finish
first, and the second Ctrl-C, are tested with real processes in tests/faults/test_signals.py.
"""

import os
import shlex
import signal
import time
from contextlib import nullcontext

import pytest

from ss4rec.cli import main_group, run
from tests.cli.harness import commands

VERBS = {
    "demo": ("--data {prepared} --preset debug", "ss4rec.train.run.train"),
    "train": ("--data {prepared} --preset debug --name x", "ss4rec.train.run.train"),
    "evaluate": ("--run {run} --data {prepared}", "ss4rec.evaluation.report.evaluate_run"),
    "recommend": ("--run {run} --data {prepared} --out o", "ss4rec.recommendations.job.recommend_run"),
    "score": (
        "--run {run} --data {prepared} --out o --pairs {shop}",
        "ss4rec.recommendations.job.recommend_run",
    ),
    "similar": ("--run {run} --item 2", "ss4rec.recommendations.similar.asked_items"),
    "show": ("{run}", "ss4rec.evaluation.run_page.write_run_page"),
    "compare": ("{run} {other}", "ss4rec.evaluation.compare.compare_runs"),
    "serve": ("--run {run} --no-ray", "ss4rec.serve.alone.serve_alone"),
    "tune": ("--data {prepared} --space {space} --name x", "tuning.sweep.run_sweep"),
    "config": ("--data {prepared}", "ss4rec.auto.resolve.Auto.decide"),
    "doctor": ("", "ss4rec.doctor.machine.diagnose"),
    "submit": ("train --address http://head:8265 -- --data /d --storage /s", "ss4rec.cluster.submit.connect"),
    "drift": ("--data {split} --run {run} --out o", "drift.job.run_drift"),
    "watch": ("--config watch.toml", "ss4rec.loop.watch.run_watch"),
    "data prepare": (
        "--source {shop} --out o --columns user=buyer,item=sku,time=when",
        "ss4rec.data.prepare.engine.prepare",
    ),
    "data synth": ("--out o", "ss4rec.cli.synth.synth"),
    "data get": ("ml-1m", "ss4rec.cli.get.download"),
    "data export": ("--data {prepared} --out o", "ss4rec.data.export_recbole.export_recbole"),
    "data compare": ("{whole} {whole}", "ss4rec.data.compare.compare"),
    "data audit": ("--data {whole}", "ss4rec.data.audit.audit"),
    "data split": ("--data {whole} --cutoff 1970-01-25 --out o", "ss4rec.data.split.split"),
    "export items": ("--run {run} --out o", "ss4rec.export.item_vectors.export_items"),
    "export index": ("--run {run} --data {prepared} --out o", "ss4rec.export.ann_index.export_index"),
    "export card": ("--run {run} --out o", "ss4rec.export.card.write_card"),
    "export torch": ("--run {run} --out o", "ss4rec.export.torch_export.export_torch"),
    "export onnx": ("--run {run} --out o", "ss4rec.export.onnx_export.export_onnx"),
    "registry list": ("there", "ss4rec.registry.models"),
    "registry show": ("models/films", "ss4rec.registry.ModelRegistry.open"),
    "registry promote": ("models/films --run {run} --reason why", "ss4rec.registry.ModelRegistry.add"),
    "registry rollback": ("models/films --reason why", "ss4rec.registry.ModelRegistry.open"),
}


def test_the_table_has_every_verb():
    assert set(VERBS) == set(dict(commands()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("verb", VERBS)
def test_one_line_and_exit_code_130(verb, number, places, tmp_path, monkeypatch, capsys):
    words, place = VERBS[verb]
    arrived = []

    def stub(*_arguments, **_options):
        arrived.append(place)
        os.kill(os.getpid(), number)
        time.sleep(20)
        arrived.append("the verb went on")

    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda address: nullcontext())
    monkeypatch.setattr(place, stub)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watch.toml").write_text('model = "registry/films"\ndata = "d"\nwork = "w"\n')
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(main_group, [*verb.split(), *shlex.split(words.format(**places))])
    assert arrived == [place]
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "stopped"
