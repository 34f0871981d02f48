"""Files, wherever they lie: paths, atomic writes, limits on what is read from strangers."""
