"""Benchmarks: one command a claim, each writes a dated record into `results/`."""
