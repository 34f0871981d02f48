"""Model drift: how well a trained model ranks each window's events, with intervals, baselines and controls.

One event a user and window is ranked against the whole vocabulary, from the history up to it; items that the user has
rated are left out. The reference is the first window after the cut: windows before it were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from drift.calendar import Window, window_of
from drift.config import DriftConfig, Severity
from drift.model.followers import follow_scores
from drift.stats.distances import Array
from drift.stats.mmd import mmd_test
from drift.stats.resampling import drop_test, holm
from ss4rec.config import DataConfig
from ss4rec.data.batches.batch import EvalBatch, collate_eval
from ss4rec.data.batches.windows import eval_sequences, ragged
from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.metrics import hit_rate, ndcg, reciprocal_rank
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model.habits import Asked
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.last_state import Encoder, encode_last, events_of, score_last

K = 10
MIN_HISTORY = 2
HISTORY_EDGES = (20, 100)
MMD_USERS = 500
GROUPS = ("all", "known_items", "known_users")
"""All events; those on items of the vocabulary; those of them by users who had an event by the cut."""
METRICS = (hit_rate, ndcg, reciprocal_rank)
RANKINGS = ("model", "shuffled", "pop_frozen", "pop_rolling", "follow")
"""The model; the model with each history in random order; popularity at the cut; popularity of the year before; what
followed the last item most often in the past."""


@dataclass(frozen=True)
class Baselines:
    """What a model is compared with."""

    frozen_V: NDArray[np.int64]
    """Events of the past by item of the vocabulary; entry 0 is padding."""
    rolling_WV: dict[int, NDArray[np.int64]]
    """Events of the year before each window."""
    follow_VV: csr_matrix
    """`drift.follow.count_pairs` of the past."""

    def scores(self, window_S: NDArray[np.int32], last_S: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Return `[S, V]` scores by name, for targets in these windows after these last items."""
        rolling_SV = torch.from_numpy(np.stack([self.rolling_WV[window] for window in window_S.tolist()]))
        return {
            "pop_frozen": torch.tensor(self.frozen_V).expand(len(window_S), -1).double(),
            "pop_rolling": rolling_SV.double(),
            "follow": torch.from_numpy(follow_scores(self.follow_VV, last_S, self.frozen_V)),
        }


@dataclass(frozen=True)
class QualityTask:
    """What a worker needs besides the model."""

    config: DriftConfig
    data: DataConfig
    windows: list[Window]
    chosen: dict[int, float]
    """Share of users that is ranked, by window."""
    cut_s: int
    vocabulary: int
    baselines: Baselines | None = None
    """None: rank by the model alone."""
    remap_V: NDArray[np.int32] | None = None
    """The model's index of each item of the timeline, vocabulary + 1 for those it does not know; None: the same."""
    profiles_UF: NDArray[np.int32] | None = None
    """Codes of the timeline's users (`ss4rec.data.prepared.user_profiles`), if the data has them."""


def targets(shard: pa.Table, task: QualityTask) -> pa.Table | None:
    """Choose events and their histories: a row a target, its last event; item 1 stands in for an unseen one."""
    (items_E, offsets_U1), (times_E, _), (ratings_E, _) = (
        ragged(shard[name]) for name in ("items", "timestamps", "ratings")
    )
    if task.remap_V is not None:
        items_E = task.remap_V[items_E]
    window_E = window_of(times_E, task.windows)
    rows: dict[str, list] = {
        name: []
        for name in ("user", "items", "timestamps", "ratings", "window", "unseen", "known", "history")
    }
    for user, start, stop in zip(shard["user"].to_pylist(), offsets_U1[:-1], offsets_U1[1:], strict=True):
        known = bool(times_E[start] <= task.cut_s)
        for window in np.unique(window_E[start:stop]).tolist():
            rng = np.random.default_rng([task.config.seed, window, user])
            if window not in task.chosen or rng.random() >= task.chosen[window]:
                continue
            inside = start + np.flatnonzero(window_E[start:stop] == window)
            at = int(rng.choice(inside))
            past = start + np.flatnonzero(items_E[start:at] <= task.vocabulary)
            if len(past) < MIN_HISTORY:
                continue
            unseen = bool(items_E[at] > task.vocabulary)
            take = np.r_[past, at]
            chosen_items = items_E[take].copy()
            if unseen:
                chosen_items[-1] = 1
            values = (user, chosen_items, times_E[take], ratings_E[take], window, unseen, known, len(past))
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
    if not rows["user"]:
        return None
    types = {"user": pa.int32(), "items": pa.list_(pa.int32()), "timestamps": pa.list_(pa.int64())}
    types |= {"ratings": pa.list_(pa.float32()), "window": pa.int32()}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in rows.items()})


@torch.inference_mode()
def rank(model: Encoder, chosen: pa.Table, task: QualityTask) -> pa.Table:
    """Rank the targets by the model and everything it is compared with; a row a target.

    Returns:
        `user`, `window`, `unseen`, `known`, `history`; ranks by name of `RANKINGS` (infinite for unseen items; the
        model's alone without baselines); `top10` items, `top10_mass` and `entropy` of the softmax (float64), `hidden`
        state.
    """
    sequences = eval_sequences(
        chosen, split="test", max_len=task.data.max_len, target_time=task.data.target_time
    )
    batch = collate_eval(sequences, task.profiles_UF)
    window_S = chosen["window"].to_numpy()
    hidden_SD = encode_last(model, batch)
    asked = Asked.after(events_of(batch))
    scores_SV = model.scores(hidden_SD, batch.seen_X, batch.seen_offsets_S1, asked).matrix()
    by_name = {"model": scores_SV}
    if task.baselines is not None:
        rng = np.random.default_rng([task.config.seed, int(batch.users_S[0]), int(window_S[0])])
        by_name["shuffled"] = score_last(model, shuffled(batch, rng)).matrix()
        last_S = batch.items_T[batch.offsets_S1[1:] - 1].numpy()
        by_name |= task.baselines.scores(window_S, last_S)
    unseen_S = chosen["unseen"].to_numpy()
    columns: dict[str, Any] = {
        name: chosen[name] for name in ("user", "window", "unseen", "known", "history")
    }
    for name, each_SV in by_name.items():
        _, ranks_S = target_ranks(
            ItemScores.of_matrix(each_SV, batch.seen_X, batch.seen_offsets_S1), batch.targets_S
        )
        columns[name] = np.where(unseen_S, np.inf, ranks_S.numpy())
    chance_SV = torch.softmax(scores_SV.double(), dim=1)
    top = chance_SV.topk(K, dim=1)
    columns["top10"] = list(top.indices.numpy().astype(np.int32))
    columns["top10_mass"] = top.values.sum(1).numpy()
    columns["entropy"] = torch.special.entr(chance_SV).sum(1).numpy()
    columns["hidden"] = list(hidden_SD.float().numpy())
    return pa.table(columns)


def shuffled(batch: EvalBatch, rng: np.random.Generator) -> EvalBatch:
    """Put the items of each history in random order; times stay. A model that loses nothing by it ignores order."""
    offsets = batch.offsets_S1.numpy()
    sequence_T = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order_T = np.lexsort((rng.random(len(sequence_T)), sequence_T))
    return replace(batch, items_T=batch.items_T[torch.from_numpy(order_T)])


def decompose(
    ref_N: Array, ref_stratum_N: NDArray, cur_M: Array, cur_stratum_M: NDArray
) -> tuple[float, float]:
    """Split mean(cur) - mean(ref) into a mix and a within-stratum part; they add up exactly (Kitagawa 1955).

    A stratum that one side lacks has no rate there; the other side's stands in, so its whole effect is mix.
    """
    mix = within = 0.0
    for stratum in np.union1d(ref_stratum_N, cur_stratum_M):
        sides = [(values[stratum_ == stratum], len(values)) for values, stratum_ in (
            (ref_N, ref_stratum_N), (cur_M, cur_stratum_M))]  # fmt: skip
        share = [len(values) / size for values, size in sides]
        means = [float(values.mean()) if len(values) else None for values, _ in sides]
        ref_rate = means[0] if means[0] is not None else means[1]
        cur_rate = means[1] if means[1] is not None else means[0]
        assert ref_rate is not None
        assert cur_rate is not None
        mix += (share[1] - share[0]) * (ref_rate + cur_rate) / 2
        within += (cur_rate - ref_rate) * (share[0] + share[1]) / 2
    return mix, within


def strata(ranks: pa.Table) -> NDArray[np.int64]:
    """Return the stratum of each target: unseen item, known user, band of history length."""
    band = np.searchsorted(HISTORY_EDGES, ranks["history"].to_numpy())
    flags = [ranks[name].to_numpy().astype(np.int64) for name in ("unseen", "known")]
    return flags[0] * 100 + flags[1] * 10 + band


def summarise(
    ranks: pa.Table,
    windows: Sequence[tuple[int, str]],
    config: DriftConfig,
    vocabulary: int,
    retrained: pa.Table | None = None,
) -> list[dict[str, Any]]:
    """Return one record a window, the first being the reference; p by permutation of users, Holm over windows.

    `retrained` holds the ranks of the same targets by models that were trained later (but before each window).
    """
    ranks = ranks.sort_by([("window", "ascending"), ("user", "ascending")])
    parts = {window: ranks.filter(pa.compute.equal(ranks["window"], window)) for window, _ in windows}
    kept = [(window, name) for window, name in windows if parts[window].num_rows >= 2]
    if not kept:
        return []
    reference = parts[kept[0][0]]
    base_N = hit_rate.gains(reference["model"].to_numpy(), K)
    records = []
    for window, name in kept:
        rng = np.random.default_rng([config.seed, window, 7])
        part = parts[window]
        hits_N = hit_rate.gains(part["model"].to_numpy(), K)
        mix, within = decompose(base_N, strata(reference), hits_N, strata(part))
        record: dict[str, Any] = {"window": name, "n_users": part.num_rows, "mix": mix, "within": within}
        for group, mask in _groups(part).items():
            record |= _metrics(group, part["model"].to_numpy()[mask], config, rng)
        for ranking in (name for name in RANKINGS[1:] if name in part.column_names):
            record[f"{ranking}.HR@10"] = float(hit_rate(part[ranking].to_numpy(), K))
        record |= _retrained(part, retrained, window)
        is_reference = window == kept[0][0]
        hidden, hidden_p = (0.0, 1.0) if is_reference else _hidden_test(reference, part, rng)
        record |= {"hidden_mmd2": hidden, "hidden_p": hidden_p}
        record["top10_mass"] = float(np.mean(part["top10_mass"].to_numpy()))
        record["calibration_gap"] = record["top10_mass"] - record["all.HR@10"]
        record["entropy"] = float(np.mean(part["entropy"].to_numpy()))
        record["coverage"] = len(np.unique(part["top10"].combine_chunks().flatten())) / vocabulary
        record["drop"] = float(1 - hits_N.mean() / base_N.mean()) if base_N.mean() else 0.0
        record["p"] = float("nan") if is_reference else drop_test(base_N, hits_N, config.permutations, rng)
        records.append(record)
    adjusted_W = holm(np.array([[record["p"]] for record in records]), config.planned_windows)[:, 0]
    for record, p_adj in zip(records, adjusted_W.tolist(), strict=True):
        record["p_adj"] = p_adj
        record["severity"] = quality_severity(record, reference.num_rows, config)
    return records


def _hidden_test(reference: pa.Table, part: pa.Table, rng: np.random.Generator) -> tuple[float, float]:
    """Return MMD^2 of the last hidden states, one a user, and its p."""
    ref_ND, cur_MD = (np.stack(side["hidden"].to_pylist()[:MMD_USERS]) for side in (reference, part))
    return mmd_test(ref_ND, cur_MD, 200, rng)


def _retrained(part: pa.Table, retrained: pa.Table | None, window: int) -> dict[str, Any]:
    """Return HR@10 of the retrained models on the targets that both they and the frozen model could rank."""
    none = {"retrained.HR@10": None, "retrained.users": 0}
    if retrained is None:
        return none
    theirs = retrained.filter(pa.compute.equal(retrained["window"], window))
    both_N = np.isin(theirs["user"].to_numpy(), part["user"].to_numpy())
    if not both_N.any():
        return none
    ranks_N = theirs["model"].to_numpy()[both_N]
    return {"retrained.HR@10": float(hit_rate(ranks_N, K)), "retrained.users": len(ranks_N)}


def quality_severity(record: dict[str, Any], n_ref: int, config: DriftConfig) -> Severity:
    """Return the verdict of a window: a drop that is significant, and large against the reference."""
    if min(record["n_users"], n_ref) < config.min_users:
        return "undecided"
    if not record["p_adj"] <= config.alpha:
        return "none"
    if record["drop"] < config.quality_drop:
        return "noted"
    return "severe" if record["drop"] >= config.quality_severe else "drift"


def _groups(part: pa.Table) -> dict[str, NDArray[np.bool_]]:
    seen, known = ~part["unseen"].to_numpy(), part["known"].to_numpy()
    return dict(zip(GROUPS, (np.ones(part.num_rows, bool), seen, known & seen), strict=True))


def _metrics(
    group: str, ranks_N: Array, config: DriftConfig, rng: np.random.Generator
) -> dict[str, float | None]:
    """Return mean and interval of each metric; None where the group is empty."""
    found: dict[str, float | None] = {f"{group}.users": len(ranks_N)}
    for metric in METRICS:
        name = f"{group}.{metric.name}@{K}"
        values_N = metric.gains(ranks_N, K)
        if not len(values_N):
            found |= dict.fromkeys((name, f"{name}.low", f"{name}.high"))
            continue
        low, high = bootstrap_mean(
            values_N, rng, samples=config.bootstrap, level=config.level, merge_equal=False
        )
        found |= {name: float(values_N.mean()), f"{name}.low": low, f"{name}.high": high}
    return found
