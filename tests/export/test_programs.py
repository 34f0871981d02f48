"""Exported programs: equal to the model, also in a process that has no ss4rec."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from ss4rec.errors import UsageError
from ss4rec.export import torch_export
from ss4rec.export.programs import HistoryEncoder
from ss4rec.export.torch_export import compare, export_torch, random_arguments, require_exportable
from ss4rec.kernels.prefix import complex_prefix, prefix
from tests.states.conftest import recommender_of
from tests.states.test_states import OPTIONS

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ss4rec[onnx] is not installed",
)
ALL = {
    "gap_map": "log",
    "feed_forward": 2.0,
    "repeats": "learned",
    "inputs": ("rating", "gap", "clock", "date", "profile"),
    "item_attributes": True,
    "horizon": True,
    "blocks": 1,
}


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_doubling_equals_the_loop(length):
    torch.manual_seed(length)
    decay, added = torch.rand(length, 3).double(), torch.randn(length, 3).double()
    state, rows = torch.zeros(3).double(), []
    for k in range(length):
        state = decay[k] * state + added[k]
        rows.append(state)
    torch.testing.assert_close(prefix(decay, added, 4), torch.stack(rows))
    turn, push = (torch.view_as_complex(torch.randn(length, 3, 2).double()) * 0.5 for _ in range(2))
    state, rows = torch.zeros(3, dtype=torch.complex128), []
    for k in range(length):
        state = turn[k] * state + push[k]
        rows.append(state)
    wanted = torch.stack(rows)
    found = complex_prefix(*(torch.cat([x.real, x.imag], 1) for x in (turn, push)), 4)
    torch.testing.assert_close(found, torch.cat([wanted.real, wanted.imag], 1))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_encoder_equals_the_scans(options):
    model = recommender_of(torch.float32, **options).model
    assert 0 < compare("encode", HistoryEncoder(model, 64).eval(), model) < 1e-5


def test_a_program_that_differs_is_found():
    model = recommender_of(torch.float32, **ALL).model
    with pytest.raises(torch_export.ExportError, match="differs from the model"):
        compare("encode", HistoryEncoder(model, 8).eval(), model)  # 40 events are more than 8
    with pytest.raises(UsageError, match="repeats=habits"):
        require_exportable(recommender_of(repeats="habits").model)


_LOADED = """
import json, sys, torch
folder = sys.argv[1]
facts = json.load(open(f"{folder}/export.json"))
step, encode, score = (torch.export.load(f"{folder}/{name}.pt2").module() for name in ("step", "encode", "score"))
case = torch.load(f"{folder}/case.pt")
rows, outputs = encode(*case["history"])
rows, outputs = torch.cat([rows, rows]), torch.cat([outputs, outputs])
new, after = step(rows, *case["event"])
found = score(after, torch.tensor([60.0, -1.0]))
torch.save(found, f"{folder}/found.pt")
assert not [name for name in sys.modules if name.startswith("ss4rec")]
print(json.dumps([list(rows.shape), facts["state_width"]]))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder in name only: its model is made here."""
    recommender = recommender_of(torch.float32, **ALL)
    for module in ("ss4rec.export.torch_export", "ss4rec.export.onnx_export"):
        monkeypatch.setattr(f"{module}.load", lambda path: recommender)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "items.parquet").write_bytes(b"items")
    return tmp_path / "run", recommender.model


def test_programs_run_in_a_process_without_ss4rec(run, tmp_path):
    folder, model = run
    facts = export_torch(folder, tmp_path / "out", most_events=16)
    assert max(facts["largest_error"].values()) < 1e-4
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("encode.pt2", "export.json", "items.parquet", "score.pt2", "step.pt2"),
    ]
    _, *history = random_arguments(model, 11)
    _, *event = random_arguments(model, 2, seed=1)
    torch.save({"history": history, "event": event}, tmp_path / "out" / "case.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", _LOADED, tmp_path / "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[2, facts["state_width"]], facts["state_width"]]
    from ss4rec.model.inputs import Context
    from ss4rec.model.segments import Segments
    from ss4rec.model.state import encode_states, read_out, step_states

    with torch.no_grad():
        items, gaps, *context = history
        rows, _ = encode_states(model, items, gaps, Segments.from_lengths([11]), Context(*context))
        items, gaps, *context = event
        _, outputs = step_states(model, rows.repeat(2, 1), items, gaps, Context(*context))
        wanted = read_out(model, outputs, torch.tensor([60.0, -1.0])) @ model.item_matrix().T
    found = torch.load(tmp_path / "out" / "found.pt")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    with pytest.raises(UsageError, match="exists"):
        export_torch(folder, tmp_path / "out")


@needs_onnx
def test_onnx_gives_the_same_in_onnxruntime(run, tmp_path):
    from ss4rec.export.onnx_export import export_onnx

    facts = export_onnx(run[0], tmp_path / "onnx")
    assert set(facts["largest_error"]) == {"step", "score"}
    assert max(facts["largest_error"].values()) < 1e-4
    assert (tmp_path / "onnx" / "step.onnx").stat().st_size > 1000
