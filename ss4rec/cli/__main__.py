"""`python -m ss4rec.cli`: the console script where none is installed."""

from ss4rec.cli import main

main()
