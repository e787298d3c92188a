"""Which layers cost accuracy in int8, and which of them to leave in float to stay within a budget.

`groups` says what goes back to float together, `designs` and `fisher` estimate what each group costs, `costs` what it
gains in time, `budget` walks from careful to bold plans until the budget breaks. What runs networks or scores them is
handed in.
"""

from edgehybrid.search.designs import Answer, count_rounds, estimate, leave_one_out
from edgehybrid.search.groups import find, members
from edgehybrid.search.losses import divergence, quadratic, spearman
from edgehybrid.search.switches import Switched, find_sites, switch

__all__ = [
    "Answer",
    "Switched",
    "count_rounds",
    "divergence",
    "estimate",
    "find",
    "find_sites",
    "leave_one_out",
    "members",
    "quadratic",
    "spearman",
    "switch",
]
