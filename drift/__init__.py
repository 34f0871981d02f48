"""Drift of data and model over windows of time after the training cut: signals, tests, verdicts, report.

Start at `drift.job.run_drift`. The way of the data: plan (which windows) -> signals (histograms per user and window) ->
cells (comparisons of windows) -> model (how well it ranks later events) -> report (verdicts, page, files). Only modules
whose names begin with `ray_` import Ray.
"""
