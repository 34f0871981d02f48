"""Training speed: a step's parts, peak memory, and the official code (`python -m benchmarks.train_step`)."""
