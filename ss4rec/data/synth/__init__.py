"""MovieLens-shaped ratings drawn from a known law.

Shapes: U users of a chunk; T their events; V movies; Q quarters of the span; K successors; 2 kinds of successors (same
visit, after a break); G kinds of gaps; Y years; B entries that are drawn together; L steps of the walk.
"""
