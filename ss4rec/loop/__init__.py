"""The loop that keeps a model good: look at new data, decide, retrain, compare, promote. `ss4rec watch` runs it."""
