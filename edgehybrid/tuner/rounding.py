"""Round weights one column after another, each time moving the columns to come so that they make up for the error.

Minimises sum |V Xq - W X|^2 over integer V, greedily: with H = Xq Xq^T, rounding column i by e_i costs
e_i^2 / [H^-1]_ii once the columns after it have moved by -e_i [H^-1]_i,j / [H^-1]_ii. Before that, W moves to
W X Xq^T H^-1, the best real weight for the rounded input. Closed form and deterministic; no gradient.

Source:
    Frantar et al., "GPTQ", ICLR 2023, equations 2 to 5.
"""

import numpy as np
from numpy.typing import NDArray

from edgehybrid.records import LEVELS

DAMPING = 0.01
"""Part of the mean of H's diagonal that is added to it: few rows must not decide far-away columns."""
FITTED = 0.75
"""Part of the rows that are used; the rest judge."""


def optimise_rounding(
    weight: NDArray[np.float32],
    scales: NDArray[np.float32],
    rounded_rows: NDArray[np.float32],
    rows: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The rounded weight.

    Args:
        weight: (groups, out, in).
        scales: (groups, out, 1).
        rounded_rows: Input as the int8 product sees it, (groups, rows, in).
        rows: Input of the float32 product, likewise.

    Returns:
        Multiples of the scales, (groups, out, in).
    """
    result = np.empty_like(weight)
    used = fitted(rows)
    for group in range(len(weight)):
        seen, true = (x[group, :used].astype(np.float64) for x in (rounded_rows, rows))
        hessian = seen.T @ seen
        hessian += np.eye(len(hessian)) * (DAMPING * np.trace(hessian) / len(hessian) + 1e-12)
        move = (true - seen).T @ seen
        target = weight[group] + weight[group] @ np.linalg.solve(hessian, move.T).T
        # Upper Cholesky factor U of H^-1: row i of U holds, over U_ii, how columns after i move.
        factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
        result[group] = _round_columns(target, scales[group].astype(np.float64), factor)
    return result


def fitted(rows: NDArray[np.float32]) -> int:
    """How many of the rows, (groups, rows, in), the rounding is fitted to; those behind them judge it."""
    return int(rows.shape[1] * FITTED)


def _round_columns(
    target: NDArray[np.float64], scales: NDArray[np.float64], factor: NDArray[np.float64], block: int = 64
) -> NDArray[np.float64]:
    """Columns in order; those far ahead are moved once per block."""
    target = target.copy()
    rounded = np.empty_like(target)
    width = target.shape[1]
    for start in range(0, width, block):
        end = min(start + block, width)
        errors = np.empty((len(target), end - start))
        for i in range(start, end):
            level = np.clip(np.rint(target[:, i : i + 1] / scales), -LEVELS, LEVELS) * scales
            rounded[:, i : i + 1] = level
            errors[:, i - start] = (target[:, i] - level[:, 0]) / factor[i, i]
            target[:, i + 1 : end] -= errors[:, i - start, np.newaxis] * factor[i, i + 1 : end]
        target[:, end:] -= errors @ factor[start:end, end:]
    return rounded
