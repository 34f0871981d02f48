"""Signals of the inputs: what is measured, what is known about items, and one row of histograms per user and window.

Shapes: E events, R rows (a user in a window), K bins of all signals side by side, B bins of one signal, U users,
V items + 1, W windows, X entries of a sparse or ragged table, G genres.
"""
