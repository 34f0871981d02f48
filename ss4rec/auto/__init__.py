"""The preset `auto`: look at the data, choose a configuration, explain it."""
