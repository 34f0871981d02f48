"""Checks that every text in the tables of guards and mutants occurs exactly once in its file, in a second.

    python -m tools.guard_texts

`tools.guards` and `tools.mutants` take each text out of a copy of the project and run a test, which takes hours. A text
that a change has moved or doubled would be found only then. Exit code 1 with a line for each text that does not fit.
"""

import sys

from tools.guards import GUARDS, text_problems
from tools.mutants import MUTANTS

if __name__ == "__main__":
    found = text_problems([*GUARDS, *MUTANTS])
    print("\n".join(found) or f"{len(GUARDS) + len(MUTANTS)} texts of guards and mutants occur once each")
    sys.exit(bool(found))
