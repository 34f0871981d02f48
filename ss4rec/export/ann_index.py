"""An index that finds the best items for a state without looking at all of them, and how often it is right.

It is built by hnswlib or faiss, whichever is installed: a graph of near neighbours (HNSW) by inner product. The recall
is measured on the states of users of a prepared folder, with the file read back as another program would.

OUT/index.bin        of hnswlib (labels are items 1, 2, ...), or index.faiss (ids are the same)
OUT/items.parquet    `item`, `source_id`, `title`
OUT/manifest.json    model, library, settings, recall, checksums
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import FileRecord
from ss4rec.data.prepared.tables import read_items, write_table
from ss4rec.errors import BackendError
from ss4rec.evaluation.states import target_states
from ss4rec.export.item_vectors import check_free, item_vectors, publish
from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.recommendations.histories import Histories, index_of, profiles_for
from ss4rec.recommendations.items import Items
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import ModelRecord, model_record
from ss4rec.runs.folder import ITEMS_FILE, RunFolder
from ss4rec.runs.load import load_model

Library = Literal["hnswlib", "faiss"]
FloatArray = npt.NDArray[np.float32]


class IndexSettings(BaseModel):
    """How the graph is built and searched."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    links: int = 32
    """Links of each item (M)."""
    build_effort: int = 200
    """Candidates that are looked at for each item while building (efConstruction)."""
    search_effort: int = 400
    """Candidates that are looked at for each question (efSearch); at least as many as are asked for."""


class IndexManifest(BaseModel):
    """The content of `manifest.json` beside an index."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    """Version of this folder's format."""
    kind: str = "item index"
    """What the folder holds."""
    model: ModelRecord
    """Whose item rows are in it."""
    library: Library
    """What reads the index."""
    library_version: str
    """With which it was built."""
    settings: IndexSettings
    """How it was built, and how it was searched for the recall."""
    items: int
    """Items in it."""
    dimensions: int
    """Numbers of a row."""
    k: int
    """Items that were asked for."""
    users: int
    """Users whose states asked."""
    recall: float
    """Mean fraction of the exact k best items that the index found; seen items are not left out."""
    data: str
    """Name of the folder whose users asked."""
    files: dict[str, FileRecord]
    """The files."""


class Index(ABC):
    """What either library does."""

    library: Library
    package: str
    file: str

    @abstractmethod
    def build(self, vectors_ID: FloatArray, settings: IndexSettings, path: Path) -> None:
        """Write an index of items 1, 2, ... to a file."""

    @abstractmethod
    def search(
        self, path: Path, states_BD: FloatArray, k: int, settings: IndexSettings
    ) -> npt.NDArray[np.int64]:
        """Read an index and return the k items that it finds for each state, `[B, k]`; -1 where it finds none."""


class Hnswlib(Index):
    """hnswlib (Apache 2.0)."""

    library, package, file = "hnswlib", "hnswlib", "index.bin"

    def build(self, vectors_ID: FloatArray, settings: IndexSettings, path: Path) -> None:
        """See `Index`."""
        import hnswlib

        index = hnswlib.Index(space="ip", dim=vectors_ID.shape[1])
        index.init_index(
            max_elements=len(vectors_ID),
            ef_construction=settings.build_effort,
            M=settings.links,
            random_seed=1,
        )
        index.add_items(vectors_ID, np.arange(1, len(vectors_ID) + 1))
        index.save_index(str(path))

    def search(
        self, path: Path, states_BD: FloatArray, k: int, settings: IndexSettings
    ) -> npt.NDArray[np.int64]:
        """See `Index`."""
        import hnswlib

        index = hnswlib.Index(space="ip", dim=states_BD.shape[1])
        index.load_index(str(path))
        index.set_ef(max(settings.search_effort, k))
        found, _ = index.knn_query(states_BD, k=k)
        return np.asarray(found).astype(np.int64)


class Faiss(Index):
    """faiss (MIT)."""

    library, package, file = "faiss", "faiss-cpu", "index.faiss"

    def build(self, vectors_ID: FloatArray, settings: IndexSettings, path: Path) -> None:
        """See `Index`."""
        import faiss

        graph = faiss.IndexHNSWFlat(vectors_ID.shape[1], settings.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = settings.build_effort
        index = faiss.IndexIDMap2(graph)
        index.add_with_ids(vectors_ID, np.arange(1, len(vectors_ID) + 1))
        faiss.write_index(index, str(path))

    def search(
        self, path: Path, states_BD: FloatArray, k: int, settings: IndexSettings
    ) -> npt.NDArray[np.int64]:
        """See `Index`."""
        import faiss

        index = faiss.read_index(str(path))
        faiss.downcast_index(index.index).hnsw.efSearch = max(settings.search_effort, k)
        _, found = index.search(states_BD, k)
        return np.asarray(found).astype(np.int64)


LIBRARIES: dict[Library, type[Index]] = {"hnswlib": Hnswlib, "faiss": Faiss}


def index_of_library(library: Library | None) -> Index:
    """Return the library that was asked for; None: the first that is installed.

    Raises:
        BackendError: if it is not installed, or none is.
    """
    for name in (library,) if library else tuple(LIBRARIES):
        if find_spec(name) is not None:
            return LIBRARIES[name]()
    raise BackendError(
        f"an index needs {library or 'hnswlib or faiss'}, which is not installed: pip install hnswlib, or "
        "pip install faiss-cpu"
    )


def export_index(
    run_dir: Path,
    out: Path,
    data: PreparedFolder,
    *,
    library: Library | None = None,
    settings: IndexSettings | None = None,
    k: int = 100,
    users: int = 1000,
    overwrite: bool = False,
) -> IndexManifest:
    """Build an index of a run's items, measure its recall, and write both into a folder, which appears whole.

    Args:
        run_dir: the run folder.
        out: folder to write.
        data: the users whose states ask for the recall; its items need not be those of the run.
        library: which; None: the first that is installed.
        settings: of the graph.
        k: items that are asked for.
        users: users who ask, spread over all.
        overwrite: replace what an earlier export left at `out`.

    Raises:
        BackendError: if no library is installed.
        DataError: if `out` is taken, or the data has no item of the run.
    """
    index, settings = index_of_library(library), settings or IndexSettings()
    run = RunFolder.open(run_dir)
    own = {ITEMS_FILE, *(one.file for one in LIBRARIES.values())}
    check_free(out, own, overwrite)
    record, vectors_ID = model_record(run), item_vectors(run)
    k = min(k, len(vectors_ID))
    states_BD = sample_states(run, data, users)
    exact_BK = _exact(states_BD, torch.from_numpy(vectors_ID), k)
    facts: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        index.build(vectors_ID, settings, folder / index.file)
        write_table(read_items(run.path).select(["item", "source_id", "title"]), folder / ITEMS_FILE)
        found_BK = index.search(folder / index.file, states_BD.numpy(), k, settings)
        facts["recall"] = recall(exact_BK, found_BK)

    def describe(files: dict[str, FileRecord]) -> IndexManifest:
        return IndexManifest(
            model=record,
            library=index.library,
            library_version=version(index.package),
            settings=settings,
            items=len(vectors_ID),
            dimensions=vectors_ID.shape[1],
            k=k,
            users=len(states_BD),
            data=data.manifest.name,
            files=files,
            **facts,
        )

    return publish(out, fill, describe)


def sample_states(run: RunFolder, data: PreparedFolder, users: int) -> Tensor:
    """Return the states of users spread over a folder, each after the whole history, float32 `[B, D]`."""
    model, config = load_model(run.path)
    record, items = run.record(), Items.of(run)
    asked_N = np.unique(
        np.linspace(0, data.manifest.users - 1, min(users, data.manifest.users)).astype(np.int64)
    )
    histories = Histories(
        config,
        RecommendOptions(),
        index_of(run, items, data),
        None,
        profiles_for(record, data),
        asked_N,
        record.columns.context,
        data.manifest.context or (),
    )
    gap_s = record.median_gap_s if config.data.target_time else None
    states = []
    with torch.inference_mode():
        for number in np.unique(data.users["shard"].to_numpy()[asked_N]).tolist():
            for batch in histories.batches(data.read_shard(number)):
                states.append(target_states(model.eval(), batch, model.device, gap_s).float())
    return torch.cat(states)


def recall(exact_BK: npt.NDArray[np.int64], found_BK: npt.NDArray[np.int64]) -> float:
    """Return the mean fraction of each row of `exact_BK` that is in the same row of `found_BK`."""
    hits = [len(np.intersect1d(right, found)) for right, found in zip(exact_BK, found_BK, strict=True)]
    return float(np.mean(hits) / exact_BK.shape[1])


def _exact(states_BD: Tensor, vectors_ID: Tensor, k: int) -> npt.NDArray[np.int64]:
    weight_VD = torch.cat([torch.zeros(1, vectors_ID.shape[1]), vectors_ID])
    nothing = torch.zeros(0, dtype=torch.int64)
    seen = SeenItems(nothing, torch.zeros(len(states_BD) + 1, dtype=torch.int64), len(weight_VD), "cpu")
    items_BK: npt.NDArray[np.int64] = (
        ItemScores.of_products(states_BD, weight_VD, seen).top(k, exclude_seen=False)[1].numpy()
    )
    return items_BK
