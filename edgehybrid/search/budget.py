"""Find how many groups must go back to float for a budget of accuracy, in few looks at the evaluation images."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Walk:
    """What the search saw."""

    looks: tuple[tuple[int, float], ...]  # groups in float, worst case of the loss; in the order of looking
    kept: int | None  # the fewest groups in float that hold the budget; None: none of those tried does

    @property
    def closest(self) -> int:
        """The number of groups in float whose worst case was the smallest, the fewest of equal ones."""
        return min(self.looks, key=lambda look: (look[1], look[0]))[0]


def rungs(groups: int) -> tuple[int, ...]:
    """Numbers of groups in float to try, from careful to bold: three quarters, then halves down to one."""
    steps = [-(-3 * groups // 4)]
    half = groups
    while half > 1:
        half = -(-half // 2)
        steps.append(half)
    return tuple(dict.fromkeys(step for step in steps if 0 < step < groups))


def walk(groups: int, budget: float, worst_case: Callable[[int], float], *, least: float) -> Walk:
    """Search from careful to bold plans until the budget breaks.

    Everything in int8 is tried first. If that breaks the budget, the rungs are climbed down from the careful end, and
    the last one that held before the first that did not is taken. A binary search would need no fewer looks, and each
    look that fails would be followed by another chance to pass by luck. Here the order is fixed before the first look
    and the first failure ends it, so that (fixed-sequence testing) a plan beyond the budget is passed with at most
    the error of one look, plus that of the first.

    Args:
        groups: How many there are, ranked: k in float means the first k of the ranking.
        budget: What the loss may be.
        worst_case: Groups in float -> upper bound of the loss.
        least: The smallest worst case that these images can show, of a plan that changes no answer at all.

    Returns:
        Looks at most 3 + log2(groups); one where `least` is beyond the budget, as no plan can then pass.
    """
    looks = [(0, worst_case(0))]
    if looks[0][1] <= budget:
        return Walk(tuple(looks), 0)
    kept = None
    if least <= budget:
        for rung in rungs(groups):
            looks.append((rung, worst_case(rung)))
            if looks[-1][1] > budget:
                break
            kept = rung
    return Walk(tuple(looks), kept)
