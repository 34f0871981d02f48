"""Drift of data and model over calendar windows after the training cut: statistics, profiles, verdicts, report.

Start at `drift.job.run_drift`; every other module is pure (no Ray) but `drift.ray_drift`.
"""
