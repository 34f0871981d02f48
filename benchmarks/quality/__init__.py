"""Recommendation quality: rows of an ablation and peers, trained and ranked alike (`python -m benchmarks.quality`)."""
