"""Prints what the order of events within one second gives away: `python tools/tie_order.py PREPARED_FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.markov import MarkovChain

LEAST = 10
"""Occurrences from which a pair of films counts."""


def tied_pairs(folder: Path, manifest: Manifest) -> csr_matrix:
    """Count neighbouring training events of one user and second by (film, next film)."""
    size = manifest.items + 1
    counts_VV = csr_matrix((size, size), dtype=np.int64)
    for path in PreparedFolder.open(folder).shard_paths:
        shard = read_shard(path, manifest.items)
        items_E, offsets_U1 = ragged(shard["items"])
        times_E, _ = ragged(shard["timestamps"])
        ends_E = np.repeat(offsets_U1[1:], np.diff(offsets_U1)) - 2
        from_P = np.flatnonzero(np.arange(1, len(items_E) + 1) < ends_E)
        from_P = from_P[times_E[from_P] == times_E[from_P + 1]]
        pairs = (items_E[from_P], items_E[from_P + 1])
        counts_VV = counts_VV + csr_matrix((np.ones(len(from_P), np.int64), pairs), shape=(size, size))
    return counts_VV


def main() -> None:
    """Print the share of zero gaps, how far tied pairs agree on their order, and a Markov chain's figures."""
    folder = Path(sys.argv[1])
    manifest = Manifest.load(folder)
    counts_VV = tied_pairs(folder, manifest)
    both_VV = counts_VV + counts_VV.T
    enough = both_VV.data >= LEAST
    agreeing = counts_VV.maximum(counts_VV.T).tocsr()[both_VV.nonzero()]
    share = np.asarray(agreeing).ravel()[enough].sum() / both_VV.data[enough].sum()
    print(f"gaps of 0 s: {manifest.zero_gaps / manifest.training_gaps:.1%}")
    print(
        f"pairs of one second that occur {LEAST} times or more: {share:.1%} of occurrences in the usual order"
    )
    chain = MarkovChain.count(PreparedFolder.open(folder).shard_paths, manifest.items)
    source = LocalSource(folder, DataConfig(), batch_size=64, seed=0)
    for split in ("valid", "test"):
        found = summarise(rank_users(chain, source.eval_batches(split, 512)), (10,)).setting(
            "excluded", "unknown"
        )
        print(f"Markov chain, seen excluded, {split}: {found.metrics}")


if __name__ == "__main__":
    main()
