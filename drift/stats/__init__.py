"""Distances and tests. Nothing here knows what is measured.

Shapes: N and M users of the two sides, P both sides together, D dimensions, K bins of all signals side by side,
B permutations or bootstrap draws (in `distances`: M pairs, B bins of one signal), S signals, W windows.
"""
