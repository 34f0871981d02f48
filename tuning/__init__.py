"""Sweeps: Ray Tune runs the trials, an Optuna study in one file decides and remembers, a report explains."""
