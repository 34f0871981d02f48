"""Experiment trackers: one interface, a module each for Weights & Biases, MLflow and TensorBoard.

How to add one: a subclass of `ExperimentTracker` in a module of its own, a field of `TrackingConfig`, and a line in
`start_all`.
A tracker is a convenience: what goes wrong with one is said once and never ends a training.
"""
