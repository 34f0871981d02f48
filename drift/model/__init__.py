"""How well the model ranks later events, window by window, and what it is compared with.

Shapes: S targets, N and M users of the two sides, E events, U users, V items + 1, T tokens, D hidden dimensions.
"""
