"""Quantiles in fixed memory are within half a percent of the true ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.streamer.tally import Distribution


@given(st.lists(st.floats(0.02, 1e6), min_size=1, max_size=300), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_within_half_a_percent(values: list[float], q: float) -> None:
    found = Distribution()
    for value in values:
        found.add(value)
    true = float(np.quantile(values, q, method="inverted_cdf"))
    assert found.quantile(q) == pytest.approx(true, rel=0.0051)
    assert found.max == max(values)


def test_nothing_has_no_quantile() -> None:
    assert Distribution().quantile(0.5) is None
