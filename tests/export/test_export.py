"""Item vectors, an index with its recall, and the model card."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import ss4rec
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import BackendError, DataError
from ss4rec.export import ann_index
from ss4rec.export.ann_index import Index, export_index, recall, sample_states
from ss4rec.export.card import model_card, to_markdown, write_card
from ss4rec.export.item_vectors import export_items
from ss4rec.runs.folder import RunFolder
from tests.evaluation.conftest import make_run


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "small", prepared, **{"train.epochs": 1})


@pytest.fixture
def data(prepared):
    return PreparedFolder.open(prepared)


def test_products_of_a_state_and_vectors_are_scores(run, data, tmp_path):
    manifest = export_items(run, tmp_path / "out")
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    assert vectors.shape == (manifest.items, manifest.dimensions)
    sequences, ids = data.sequences(), table["source_id"].to_pylist()
    events = slice(*sequences.offsets_U1[:2])
    history = [ids[item - 1] for item in sequences.items_E[events]]
    scores = ss4rec.load(run).scores(history, sequences.times_E[events].tolist())
    states = sample_states(RunFolder.open(run), data, 10**9)
    assert len(states) == 150
    assert np.allclose(states[0].numpy() @ vectors.T, scores, atol=1e-5)
    export_items(run, tmp_path / "out", unit_length=True, overwrite=True)
    assert np.allclose(np.linalg.norm(np.load(tmp_path / "out" / "vectors.npy"), axis=1), 1)
    with pytest.raises(DataError, match="--overwrite"):
        export_items(run, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="other files"):
        export_items(run, tmp_path / "out", overwrite=True)


def test_recall_is_the_fraction_that_was_found():
    assert recall(np.array([[1, 2, 3, 4]]), np.array([[4, 9, 1, -1]])) == 0.5
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [7, 8]])) == 0.5


class HalfRight(Index):
    """Looks at the first half of the items only."""

    library, package, file = "hnswlib", "numpy", "index.bin"

    def build(self, vectors_ID, settings, path):
        path.write_bytes(vectors_ID.tobytes())

    def search(self, path, states_BD, k, settings):
        vectors = np.frombuffer(path.read_bytes(), np.float32).reshape(-1, states_BD.shape[1])
        return 1 + np.argsort(-(states_BD @ vectors[: len(vectors) // 2].T), axis=1, kind="stable")[:, :k]


def test_the_recall_of_an_index_is_against_exact_ranking(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(ann_index, "index_of_library", lambda library: HalfRight())
    manifest = export_index(run, tmp_path / "out", data, k=8, users=40)
    vectors = np.load(_vectors(run, tmp_path))
    states = sample_states(RunFolder.open(run), data, 40).numpy()
    best = np.argsort(-(states @ vectors.T), axis=1)[:, :8]
    assert manifest.users == 40
    assert manifest.recall == pytest.approx((best < len(vectors) // 2).mean())
    assert 0.05 < manifest.recall < 0.95
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["files"].keys() == {
        "index.bin",
        "items.parquet",
    }


def _vectors(run, tmp_path):
    export_items(run, tmp_path / "vectors")
    return tmp_path / "vectors" / "vectors.npy"


@pytest.mark.parametrize("library", ["hnswlib", "faiss"])
def test_real_libraries_find_nearly_all(run, data, tmp_path, library):
    pytest.importorskip(library)
    manifest = export_index(run, tmp_path / "out", data, library=library, k=10, users=50)
    assert manifest.recall > 0.9
    assert manifest.library == library


def test_a_library_that_is_missing_is_named(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(ann_index, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="pip install hnswlib"):
        export_index(run, tmp_path / "out", data)
    with pytest.raises(BackendError, match="needs faiss, which is not installed"):
        export_index(run, tmp_path / "out", data, library="faiss")
    assert not (tmp_path / "out").exists()


def test_the_card_says_what_the_run_folder_says(run, tmp_path):
    card = write_card(run, tmp_path)
    text = (tmp_path / "card.md").read_text()
    assert json.loads((tmp_path / "card.json").read_text()) == card.model_dump(mode="json")
    (figures,) = card.figures
    saved = json.loads((run / "evaluation" / "test" / "result.json").read_text())["results"]
    assert figures.metrics["model"] == saved["model"]["settings"][0]["metrics"]
    assert f"| model | {figures.metrics['model']['HR@10']:.4f} |" in text
    for part in (
        "## Data",
        "150 users",
        "leave-one-out",
        "## Intended use",
        "## Limits",
        "most popular",
        "95 %",
    ):
        assert part in text, part
    assert card.model.weights_sha256 in text
    assert all(users >= 50 for *_, users, _ in figures.worst)


def test_a_run_that_was_not_evaluated_says_so(run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "evaluation")
    card = model_card(copy)
    assert card.figures == ()
    assert "Not evaluated yet." in to_markdown(card)
    assert any("nothing is known about how good" in limit for limit in card.limits)
