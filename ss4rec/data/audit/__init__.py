"""What is wrong with some data, and what follows from it, before anyone trains: `ss4rec data audit`.

scan      two passes over the shards: gaps, equal times, repeats, copies, what is new each day
volume    holes and jumps
divided   cold targets and leaks of a protocol
reach     what simple scorers reach
measure   all of that as `facts`
lights    facts against rules
follows   what to choose
page      HTML
"""

from ss4rec.data.audit.audit import USERS, Audit, audit
from ss4rec.data.audit.facts import Facts
from ss4rec.data.audit.lights import Light

__all__ = ["USERS", "Audit", "Facts", "Light", "audit"]
