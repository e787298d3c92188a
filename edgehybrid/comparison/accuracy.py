"""How two accuracies differ: answer by answer where both are known, else as independent samples."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgehybrid import proportions
from edgehybrid.comparison.side import Side
from edgehybrid.records import Accuracy, AccuracyChange, Answers, Row


def unpaired_interval(a: Accuracy, b: Accuracy) -> tuple[float, float]:
    """95 % interval of the top-1 lost from one to the other, in points, of two independent samples.

    Source:
        Newcombe's hybrid score interval (method 10), Statistics in Medicine 17 (1998) 873-890, from Wilson's.
    """
    lost = a.top1 - b.top1
    down = math.hypot(a.top1 - a.ci95[0], b.ci95[1] - b.top1)
    up = math.hypot(a.ci95[1] - a.top1, b.top1 - b.ci95[0])
    return lost - down, lost + up


def accuracy_change(a: Side, b: Side, x: Row, y: Row) -> AccuracyChange | None:
    """Points of top-1 lost from the first row to the second; None where either was not scored."""
    if x.accuracy is None or y.accuracy is None:
        return None
    before, after = x.accuracy, y.accuracy
    mine, theirs = a.evaluation, b.evaluation
    same = mine is not None and theirs is not None and mine.sha256 == theirs.sha256
    if mine is None or theirs is None or not (same or mine.name == theirs.name):
        names = [side.evaluation.name if side.evaluation else "unknown" for side in (a, b)]
        reason = f"scored on different image sets: {names[0]} and {names[1]}"
        return AccuracyChange(before.top1, after.top1, None, None, False, None, "not compared", reason)
    right = _paired(a, b, x, y)
    if right is not None:
        lost, gained, n = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum()), len(right[0])
        low, high = (100 * float(end) for end in proportions.paired_interval(lost, gained, n))
        points = 100 * (lost - gained) / n
        p = proportions.mcnemar(lost, gained)
        return AccuracyChange(before.top1, after.top1, points, (low, high), True, p, _verdict(low, high))
    low, high = unpaired_interval(before, after)
    reason = "unpaired: answers per image are not kept by both" if same else "unpaired: not the same images of the set"
    points = before.top1 - after.top1
    return AccuracyChange(before.top1, after.top1, points, (low, high), False, None, _verdict(low, high), reason)


def _paired(a: Side, b: Side, x: Row, y: Row) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Right or wrong per image on both sides, where both kept their answers to the same images in the same order."""
    if a.answers is None or b.answers is None or a.answers.order != b.answers.order:
        return None
    mine = a.answers.top1.get(Answers.key(x.precision, x.backend))
    theirs = b.answers.top1.get(Answers.key(y.precision, y.backend))
    if mine is None or theirs is None or a.answers.labels != b.answers.labels or len(mine) != len(theirs):
        return None
    labels = np.asarray(a.answers.labels)
    if len(labels) != len(mine):
        return None
    return np.asarray(mine) == labels, np.asarray(theirs) == labels


def _verdict(low: float, high: float) -> Literal["better", "worse", "no difference shown"]:
    """Of points lost from the first to the second."""
    return "worse" if low > 0 else "better" if high < 0 else "no difference shown"
