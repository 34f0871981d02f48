"""Drift reports: power, false alarms and cost on planted changes, and against peers (`python -m benchmarks.drift`)."""
