"""Records survive JSON; what is not a record is refused by field name."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.records import Accuracy, Decision, Drop, Fidelity, Latency, Plan, Row
from edgehybrid.store import decode, to_json

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**6)
latencies = st.builds(Latency, *[numbers] * 8, n=counts, samples=st.lists(numbers, max_size=4).map(tuple))
rows = st.builds(
    Row,
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.text(max_size=8),
    st.sampled_from(["measured", "estimated", "deferred", "failed"]),
    latency=st.none() | latencies,
    accuracy=st.none() | st.builds(Accuracy, numbers, numbers, counts, st.tuples(numbers, numbers)),
    drop=st.none() | st.builds(Drop, numbers, st.tuples(numbers, numbers), numbers, counts),
    fidelity=st.none() | st.builds(Fidelity, numbers, numbers, numbers, counts),
    bytes=st.none() | counts,
)


@given(rows)
def test_decode_inverts_to_json(row: Row) -> None:
    assert decode(Row, json.loads(to_json(row))) == row


def test_nested_records_come_back_as_records() -> None:
    plan = Plan("typed", (Decision("n", "Conv", 1, "w", "weight", "r", "because", axis=0),))
    assert decode(Plan, json.loads(to_json(plan))) == plan


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "needed an object"),
        ({"dialect": "typed"}, "decisions"),
        ({"dialect": "trt7", "decisions": []}, "Plan.dialect"),
        ({"dialect": "typed", "decisions": {}}, "Plan.decisions"),
        ({"dialect": "typed", "decisions": [], "extra": 1}, "extra"),
    ],
)
def test_a_wrong_field_is_named(data: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode(Plan, data)


def test_a_number_beyond_any_float_is_refused() -> None:
    for kind in (int, float):
        with pytest.raises(ValueError, match="the number is too large"):
            decode(kind, 10**400)


def test_json_is_strict() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"x": math.nan})
