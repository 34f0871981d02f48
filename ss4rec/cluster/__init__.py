"""Joining a Ray cluster, placing workers on it, and sending jobs to it."""
