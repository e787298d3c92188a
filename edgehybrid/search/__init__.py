"""Which layers cost accuracy in int8, and which of them to leave in float to stay within a budget.

`groups` says what goes back to float together, `designs` and `fisher` estimate what each group costs, `costs` what it
gains in time, `budget` walks from careful to bold plans until the budget breaks. `fisher` runs a network in torch, for
its gradients; whatever else runs networks or scores them is handed in.
"""

from edgehybrid.search.budget import Walk, rungs, walk
from edgehybrid.search.costs import Gains, estimate_gains, measure_gains, order_groups
from edgehybrid.search.designs import Answer, count_rounds, estimate, leave_one_out
from edgehybrid.search.factors import weigh
from edgehybrid.search.groups import find_groups, owners
from edgehybrid.search.losses import quadratic, spearman
from edgehybrid.search.switches import Switched, find_sites, switch

__all__ = [
    "Answer",
    "Gains",
    "Switched",
    "Walk",
    "count_rounds",
    "estimate",
    "estimate_gains",
    "find_groups",
    "find_sites",
    "leave_one_out",
    "measure_gains",
    "order_groups",
    "owners",
    "quadratic",
    "rungs",
    "spearman",
    "switch",
    "walk",
    "weigh",
]
