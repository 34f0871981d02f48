"""Comparisons of windows: what a cell is, how it is computed, and the detectors of alibi-detect beside our own.

Shapes: N and M users of the two sides, D columns of a user, K bins of all signals, S signals, W windows.
"""
