"""Preparing data: seconds, memory and rows against Polars and RecBole (`python -m benchmarks.data`)."""
