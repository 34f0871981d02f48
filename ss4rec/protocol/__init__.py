"""Evaluation protocols: which events train, which choose the model, which test it."""
