"""What NVIDIA's own program is told, where there is no edgehybrid on the board."""

import pytest

from edgehybrid.engine import remote
from edgehybrid.records import Dialect, Precision, Target


@pytest.mark.parametrize(
    ("dialect", "precision", "words"),
    [
        ("typed", "mixed", ["--stronglyTyped"]),
        ("fp32", "fp32", []),
        ("fp32", "fp16", ["--fp16"]),
        ("fp32", "int8", ["--fp16", "--int8"]),
        ("fp32", "mixed", ["--fp16", "--int8"]),
    ],
)
def test_trtexec_is_told_what_a_graph_does_not_say(dialect: Dialect, precision: Precision, words: list[str]) -> None:
    target = Target("board", "A board", "tensorrt", dialect, ("int8",))
    assert remote.precision_words(target, precision) == words
