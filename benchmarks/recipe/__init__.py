"""The recipe benchmark: `auto` on every data set, one command line for all."""
