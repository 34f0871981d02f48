"""The global cut in time of Time to Split on ML-1M: the split checked, and every model ranked on it."""
