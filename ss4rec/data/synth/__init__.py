"""MovieLens-shaped ratings drawn from a known law."""
