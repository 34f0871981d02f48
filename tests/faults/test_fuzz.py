"""Readers and parsers are given damaged and invented input: whatever comes, only our own errors come out.

SS4REC_FUZZ_EXAMPLES sets how many inputs each test makes (in CI: 60).
"""

import copy
import json
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.config import DriftConfig
from ss4rec.cli.drift import drift_config
from ss4rec.cli.options import data_folder, resolve_config
from ss4rec.config import RunConfig, parse_config
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared import tables
from ss4rec.data.sources import Source
from ss4rec.data.split import SplitRecord
from ss4rec.errors import SS4RecError
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from tests.faults.small import last_checkpoint, small, train

EXAMPLES = int(os.environ.get("SS4REC_FUZZ_EXAMPLES", "60"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 60,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [0, -1, 1, 2**31, 2**63, 1e308, "../x", "/etc/passwd", "\x00", "NaN", [], {}, [[]], "auto", "no"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "flip", "cut", "insert", "double"]),
        st.floats(0, 1),
        st.binary(max_size=6),
    ),
    min_size=1,
    max_size=5,
)


def edited(raw: bytes, edits) -> bytes:
    """Return `raw` after some edits of bytes, each at a share of its length."""
    data = bytearray(raw)
    for kind, share, value in edits:
        at = min(int(share * len(data)), max(len(data) - 1, 0))
        if kind == "set":
            data[at : at + len(value)] = value
        elif kind == "flip" and data:
            data[at] ^= 1 << (len(value) % 8)
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = value
        elif kind == "double":
            data += data[at:]
    return bytes(data)


@st.composite
def replaced(draw, tree):
    """Return a copy of a JSON tree with some places replaced, removed or added to."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            if isinstance(node, dict) and draw(st.booleans()) and draw(st.booleans()):
                del node[key]
            else:
                node[key] = draw(VALUES)
            break
    return tree


def refused_or_fine(action) -> None:
    """Run `action`; anything but success or one of our own errors fails the test."""
    with suppress(SS4RecError):
        action()


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(prepared, folder, small(**{"train.epochs": 1}))
    return folder


@fuzz
@given(data=st.data())
def test_configuration(data):
    """Any JSON in place of fields of a configuration."""
    tree = data.draw(replaced(RunConfig().model_dump(mode="json")) | VALUES)
    refused_or_fine(lambda: parse_config(tree))


@fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model.dim", "train", "x.y.z", "", ".", "optim.betas"]), st.text(max_size=12)
        )
    )
)
def test_assignments(pairs):
    """Any text behind --set."""
    texts = [f"{name}={value}" for name, value in pairs]
    refused_or_fine(lambda: resolve_config("debug", texts))
    names = [f"{name or 'window'}={value}" for name, value in pairs]
    refused_or_fine(lambda: drift_config(tuple(names)))
    assert isinstance(drift_config(()), DriftConfig)


@fuzz
@given(data=st.data())
def test_json_files(data, prepared, run, tmp_path_factory):
    """Manifest, split record, run record and configuration with replaced values or bytes."""
    folder = tmp_path_factory.mktemp("json", numbered=True)
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    for name in ("config.json", "record.json"):
        shutil.copy(run / name, folder / name)
    split = {"cut_s": 1, "vocabulary": 2, "seen": 3, "future_events": 4, "future_users": 5}
    (folder / "split.json").write_text(json.dumps(split))
    name = data.draw(st.sampled_from(["manifest.json", "split.json", "config.json", "record.json"]))
    raw = (folder / name).read_bytes()
    if data.draw(st.booleans()):
        text = json.dumps(data.draw(replaced(json.loads(raw)))).encode("utf-8", "surrogatepass")
    else:
        text = edited(raw, data.draw(EDITS))
    (folder / name).write_bytes(text)
    for action in (
        lambda: data_folder(folder),
        lambda: LocalSource(folder, small().data, batch_size=8, seed=0),
        lambda: SplitRecord.load(folder),
        lambda: RunFolder(folder).config(),
        lambda: RunFolder(folder).record(),
        lambda: resolve_config(str(folder / "config.json"), []),
    ):
        refused_or_fine(action)
    shutil.rmtree(folder)


@fuzz
@given(data=st.data())
def test_metrics_lines(data, tmp_path_factory):
    """Any bytes in metrics.jsonl."""
    folder = RunFolder(tmp_path_factory.mktemp("metrics"))
    lines = data.draw(st.lists(VALUES | st.just({"global_step": 3, "kind": "epoch"}), max_size=4))
    raw = "\n".join(json.dumps(line) for line in lines).encode("utf-8", "surrogatepass")
    (folder.path / "metrics.jsonl").write_bytes(edited(raw, data.draw(EDITS)))
    refused_or_fine(folder.metrics)
    refused_or_fine(lambda: folder.rewind_metrics(2))


@fuzz
@given(data=st.data())
def test_checkpoints(data, prepared, run, tmp_path_factory):
    """Bytes of any file of a checkpoint, with checksums that fit or do not; loaded to serve and to continue."""
    folder = tmp_path_factory.mktemp("checkpoint") / "run"
    shutil.copytree(run, folder)
    for older in sorted((folder / "checkpoints").iterdir())[:-1]:
        shutil.rmtree(older)
    path = last_checkpoint(folder).path
    name = data.draw(
        st.sampled_from(["model.safetensors", "training.safetensors", "state.json", "checksums.json"])
    )
    raw = (path / name).read_bytes()
    if name == "state.json" and data.draw(st.booleans()):
        (path / name).write_text(json.dumps(data.draw(replaced(json.loads(raw)))))
    else:
        # Most of a safetensors file is numbers: aim at its header too.
        head = data.draw(st.sampled_from([len(raw), 200]))
        (path / name).write_bytes(edited(raw[:head], data.draw(EDITS)) + raw[head:])
    if data.draw(st.booleans()):
        names = ("model.safetensors", "training.safetensors", "state.json")
        (path / "checksums.json").write_text(json.dumps({n: checkpoint.sha256_of(path / n) for n in names}))
    refused_or_fine(lambda: load_model(folder))
    refused_or_fine(lambda: train(prepared, folder, small(**{"train.epochs": 1})))
    shutil.rmtree(folder.parent)


SOURCES = {
    "ratings.dat": "1::2::3::978300760\n1::3::4::978300761\n2::2::5::978300762\n" * 3,
    "u.data": "1\t2\t3\t978300760\n2\t2\t5\t978300762\n" * 3,
    "ratings.csv": "userId,movieId,rating,timestamp\n" + "1,2,3.5,978300760\n2,2,5,978300762\n" * 3,
    "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "a\tb\t3\t978300760\n" * 3,
    "t.csv": "user,item,time\n" + '"a",b,2001-01-01 00:00:00\n' * 3,
}
EXTRA = {
    "movies.dat": "2::Toy Story (1995)::Animation|Comedy\n3::Caf\xe9::Drama\n",
    "movies.csv": 'movieId,title,genres\n2,"A, b",Drama|War\n3,C,(no genres listed)\n',
    "u.item": "2|T|1-Jan-1995||http|0|1\n",
    "u.genre": "unknown|0\nAction|1\n\n",
    "x.item": "item_id:token\tmovie_title:token_seq\tclass:token_seq\nb\tT\tA B\n",
}


@fuzz
@given(data=st.data())
def test_sources(data, tmp_path_factory):
    """Bytes of ratings and of the tables beside them, in a folder, in a zip, and of the zip itself."""
    folder = tmp_path_factory.mktemp("source")
    name = data.draw(st.sampled_from(sorted(SOURCES)))
    files = {name: SOURCES[name]} | EXTRA
    hit = data.draw(st.sampled_from(sorted({name, *EXTRA})))
    contents = {n: text.encode("latin-1") for n, text in files.items()}
    if data.draw(st.booleans()):
        contents[hit] = edited(contents[hit], data.draw(EDITS))
    if data.draw(st.booleans()):
        path = folder / "x.zip"
        with zipfile.ZipFile(path, "w", data.draw(st.sampled_from([0, 8]))) as archive:
            for n, content in contents.items():
                archive.writestr(f"ml/{n}", content)
        path.write_bytes(edited(path.read_bytes(), data.draw(EDITS)))
    else:
        path = folder
        for n, content in contents.items():
            (folder / n).write_bytes(content)
        (folder / "movies.csv" if name == "t.csv" else folder / "none").unlink(missing_ok=True)
    refused_or_fine(lambda: Source.open(path).read())
    shutil.rmtree(folder)


@fuzz
@given(data=st.data())
def test_parquet(data, prepared, tmp_path_factory):
    """Bytes of a shard, of the tables, and of a Parquet file of ratings."""
    folder = tmp_path_factory.mktemp("parquet")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    (folder / "source").mkdir()
    table = pa.table({"user": [1, 2], "item": ["a", "b"], "timestamp": [5, 6], "rating": [1.0, 2.0]})
    pq.write_table(table, folder / "source/r.parquet")
    name = data.draw(
        st.sampled_from(["shards/part-00000.parquet", "users.parquet", "items.parquet", "source/r.parquet"])
    )
    raw = (folder / name).read_bytes()
    tail = data.draw(
        st.sampled_from([0, max(0, len(raw) - 700)])
    )  # the footer has more to say than the pages
    (folder / name).write_bytes(raw[:tail] + edited(raw[tail:], data.draw(EDITS)))
    for action in (
        lambda: list(LocalSource(folder, small().data, batch_size=8, seed=0).train_batches(0, 0, 1)),
        lambda: list(LocalSource(folder, small().data, batch_size=8, seed=0).eval_batches("test", 8)),
        lambda: tables.read_items(folder),
        lambda: Source.open(folder / "source").read(),
    ):
        refused_or_fine(action)
    shutil.rmtree(folder)


@fuzz
@given(
    st.lists(
        st.text(
            alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=12
        ),
        max_size=5,
    )
)
def test_command_line(arguments):
    """Any words behind `ss4rec`: an exit code, not a traceback."""
    from ss4rec.cli import main_group

    result = CliRunner().invoke(main_group, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit | SS4RecError)
    assert Path.cwd().exists()
