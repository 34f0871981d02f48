"""Mistakes that would make a drift report lie, each put into a copy of the project; a test must then fail.

    python -m tools.mutants [WORDS OF A TEST'S NAME]

Prints a line a mutant; exit code 1 if one survived. The six that were named when drift was planned come first.
"""

import sys

from tools.guards import Guard, check

P, S, Q, C, R, A, N, L = (
    f"test_drift_{name}.py"
    for name in ("profile", "stats", "quality", "cells", "report", "alibi", "item_noise", "planted")
)
STATS, QUALITY, VERDICT, CATALOGUE = (
    "drift/stats/resampling.py",
    "drift/model/quality.py",
    "drift/report/verdict.py",
    "drift/signals/items.py",
)
PROFILE, CELLS, JOB = "drift/signals/histograms.py", "drift/cells/compare.py", "drift/job.py"
RUN, TYPES = "drift/cells/run.py", "drift/cells/types.py"
MUTANTS = (
    # Rows permuted instead of users: each window of a user, or each side of a returning user, as a person of its own.
    Guard(f"{P}::weigh_each", PROFILE, "np.unique(user_R, return_inverse=True)", "np.arange(len(user_R)), np.arange(len(user_R))"),
    Guard(f"{S}::exchange_their_own", STATS, "    both = np.intersect1d(ref.users_N, cur.users_N)\n    alone = [side.take(np.setdiff1d(side.users_N, both)) for side in (ref, cur)]\n", "    both = np.array([], np.int64)\n    alone = [ref, cur]\n"),
    # The +1 dropped from a permutation p.
    Guard(f"{S}::never_zero", STATS, "(1 + (null_BS >= observed_S).sum(axis=0)) / (1 + len(null_BS))", "(null_BS >= observed_S).sum(axis=0) / len(null_BS)"),
    Guard(f"{A}::never_zero", "drift/cells/alibi.py", "(1 + float(p) * permutations) / (1 + permutations)", "float(p)"),
    # Bins from the future: labels of genres that nobody had seen by the cut; the lasting top of all windows.
    Guard(f"{P}::change_with_the_future", CATALOGUE, "for entry in listed[:seen]", "for entry in listed"),
    Guard(f"{P}::lasting_top", PROFILE, "counts.counts_WV[list(year_before)]", "counts.counts_WV"),
    # Popularity computed with the future: of signals, of the rolling baseline, of what follows what.
    Guard(f"{P}::looks_back_only", CATALOGUE, "counts_WV[max(0, window - lookback) : window]", "counts_WV[max(0, window - lookback) : window + 1]"),
    Guard(f"{P}::change_with_the_future", CATALOGUE, "counts_WV[max(0, window - lookback) : window]", "counts_WV[max(0, window - lookback) :]"),
    Guard(f"{Q}::pairs_of_the_past", "drift/model/followers.py", "(items_E <= vocabulary) & (times_E <= cut_s)", "items_E <= vocabulary"),
    # Holm left out.
    Guard(f"{S}::holm_equals", STATS, "p_WS[w] * (count - rank)", "p_WS[w]"),
    Guard(f"{C}::adjusted_for_all", VERDICT, "adjusted_WS = holm(p_WS, ", "adjusted_WS = (lambda p, planned: p)(p_WS, "),
    # The sign of the drop: of the size, of the test, of the shift, of the order of quality's verdict.
    Guard(f"{Q}::ranks_and_summary", QUALITY, "float(1 - hits_N.mean() / base_N.mean())", "float(hits_N.mean() / base_N.mean() - 1)"),
    Guard(f"{S}::a_drop_is_found", STATS, "(rest - cur_sum) / len(ref_N) - cur_sum / len(cur_M)", "cur_sum / len(cur_M) - (rest - cur_sum) / len(ref_N)"),
    Guard(f"{S}::easier_to_see", STATS, "gap / np.sqrt(spreads[0] / len(ref_N) + spreads[1] / len(cur_M) + 1e-15)", "gap"),
    Guard(f"{S}::fall_has_a_negative", "drift/stats/distances.py", "(cur_MK[..., part] - ref_MK[..., part]) @ position_B", "(ref_MK[..., part] - cur_MK[..., part]) @ position_B"),
    Guard(f"{Q}::quality_severity", QUALITY, 'if record["drop"] < config.quality_drop:', 'if abs(record["drop"]) < config.quality_drop:'),
    # Other mistakes of the same kind.
    Guard(f"{S}::max_t_equals", STATS, "reach_BS.max(axis=1, keepdims=True)", "reach_BS"),
    Guard(f"{S}::ties", STATS, "    centred_NC = (single_NC - mean_C).astype(np.float32)\n    fixed_C = cur_both_NC.sum(axis=0, dtype=np.float64) + mean_C * is_cur_N.sum()\n", "    centred_NC = single_NC.astype(np.float32)\n    fixed_C = cur_both_NC.sum(axis=0, dtype=np.float32)\n"),
    Guard(f"{S}::flip_of_all", STATS, "(2 * rng.integers(0, 2, (count, len(users))) - 1)", "rng.integers(0, 2, (count, len(users)))"),
    Guard(f"{S}::planned", STATS, "count = max(len(order), planned)", "count = len(order)"),
    Guard(f"{S}::noise_of_the_bins", STATS, "        cur_BK[:, noise.part] += noise.draw(len(cur_BK), rng)\n", "        pass\n"),
    Guard(f"{C}::estimated_bins", CELLS, "popularity = percentile_noise(", "popularity = None and percentile_noise("),
    Guard(f"{S}::too_narrow", STATS, "np.sqrt(np.maximum(ratio_S, 1.0))", "np.ones_like(ratio_S)"),
    Guard(f"{S}::there_without_news", STATS, "if null and noise.offset_B is not None:", "if False:"),
    Guard(f"{N}::no_news", CELLS, "        found += item_noise(", "        item_noise("),
    Guard(f"{N}::days_of_a_window", CELLS, "(popularity, weekday)", "(popularity,)"),
    Guard(f"{N}::loop_over_items", "drift/signals/item_noise.py", "apart_XB = bins_XB - ", "apart_XB = bins_XB - 0 * "),
    Guard(f"{N}::clock_alone", "drift/signals/item_noise.py", "(bins_XB - was_XB)", "(bins_XB - bins_XB)"),
    Guard(f"{L}::order_of_the_same", "drift/report/rules.py", "return fell and gone and not lost and _other_stars(moves)", "return fell and not lost"),
    Guard(f"{C}::failed_cell", RUN, 'ALL_SIGNALS, status="error")', 'ALL_SIGNALS)'),
    Guard(f"{C}::test_severity", VERDICT, '    if row.effect < row.threshold:\n        return "noted"\n', ""),
    Guard(f"{C}::test_severity", VERDICT, "row.p_floor * windows > config.alpha", "False"),
    Guard(f"{C}::exit_codes_of_a_report", JOB, "    if report.incomplete:\n        return EXIT_INCOMPLETE\n", ""),
    Guard(f"{C}::do_not_depend", TYPES, 'f"{self.comparison}/{self.detector}".encode()', "str(np.random.default_rng().random()).encode()"),
    Guard(f"{C}::up_to_this_cut", "drift/plan.py", "    if record.cut_s != split.cut_s:\n", "    if False:\n"),
    Guard(f"{Q}::only_earlier_known", "drift/model/targets.py", "self.known_E = items_E <= choice.vocabulary", "self.known_E = items_E <= 10**9"),
    Guard(f"{Q}::held_out", "drift/model/targets.py", "self.known_E & (self.times_E <= self.choice.cut_s)", "self.known_E & (self.times_E <= 10**12)"),
    Guard(f"{C}::grown", "ss4rec/runs/record.py", 'include={"filters", "shards", "files",', 'include={"filters", "shards", "source", "files",'),
    Guard(f"{C}::exit_codes_of_a_report", JOB, "SEVERITIES.index(report.alert) >=", "SEVERITIES.index(report.verdict) >="),
    Guard(f"{A}::past_windows_gave", VERDICT, "if row.severity == \"noted\" and row.effect > row.threshold:", "if row.severity == \"noted\":"),
    Guard(f"{Q}::as_one_by_one", "drift/model/targets.py", "np.array(positions) - 1 - start,", "np.array(positions) - start,"),
    Guard(f"{Q}::add_up", QUALITY, "within += (cur_rate - ref_rate) * (share[0] + share[1]) / 2", "within += (cur_rate - ref_rate) * share[1]"),
    Guard(f"{A}::lack_a_signal", "drift/cells/alibi.py", "complete_N = (side.weights_NS[:, kept] > 0).all(axis=1)", "complete_N = (side.weights_NS[:, kept] >= 0).all(axis=1)"),
    Guard(f"{A}::what_a_detector", "drift/cells/alibi.py", "    ref = ref.take(np.setdiff1d(ref.users_N, cur.users_N))\n", ""),
    Guard("test_drift_popularity.py::counts_as_one", "drift/signals/popularity_noise.py", 'order = np.argsort(user_R, kind="stable")\n    first = np.flatnonzero(np.r_[True, np.diff(user_R[order]) != 0])', "order = np.arange(len(user_R))\n    first = order"),
    Guard(f"{R}::what_was_planted", "drift/report/changes.py", "        sudden = [e for e in jumps if e.first == name and", "        sudden = [e for e in jumps if e.last == names[-1] and"),
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(check(MUTANTS, sys.argv[1:], "tests/drift"))
