"""Python callers may write paths as text, names as paths, and colours as numbers."""

import inspect
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import edgehybrid
from edgehybrid.errors import EdgeHybridError
from edgehybrid.pipeline.arguments import forgive


@forgive
def verb(
    model: str = "cmt_ti",
    output: Path | None = None,
    *,
    merge: list[Path] | None = None,
    how: Literal["a", "b"] = "a",
    count: int = 1,
) -> tuple[object, ...]:
    """Says what it got."""
    return model, output, merge, how, count


def test_text_becomes_a_path_and_a_path_text() -> None:
    assert verb(Path("net.onnx"), "out", merge=["a.json", Path("b.json")], how="b") == (  # type: ignore[arg-type, list-item]
        "net.onnx",
        Path("out"),
        [Path("a.json"), Path("b.json")],
        "b",
        1,
    )


def test_numbers_become_the_text_that_the_command_line_has() -> None:
    assert verb((0.485, 0.456, 1))[0] == "0.485,0.456,1.0"  # type: ignore[arg-type]
    assert verb([1e-7, np.float32(0.5)])[0] == "1e-07,0.5"  # type: ignore[arg-type]
    assert verb(["0.5", 1])[0] == ["0.5", 1]  # type: ignore[arg-type]


def test_one_of_a_list_is_a_list_of_one() -> None:
    assert verb(merge="a.json") == ("cmt_ti", None, [Path("a.json")], "a", 1)  # type: ignore[arg-type]


def test_what_fits_is_passed_on() -> None:
    assert verb() == ("cmt_ti", None, None, "a", 1)
    assert verb("x", Path("y"), merge=[], count=3) == ("x", Path("y"), [], "a", 3)


def test_the_signature_and_wrong_arguments_stay() -> None:
    assert list(inspect.signature(verb).parameters) == ["model", "output", "merge", "how", "count"]
    with pytest.raises(TypeError, match="nothing"):
        verb(nothing=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["bench", "compare", "evaluate", "lint", "report", "stream", "verify"])
def test_a_verb_told_nonsense_as_text_says_so_in_three_lines(name: str, tmp_path: Path) -> None:
    no = str(tmp_path / "no")
    told: dict[str, dict[str, object]] = {
        "compare": {"a": no, "b": no},
        "evaluate": {"model": no, "eval": "photos"},
        "report": {"bundles": no},
        "stream": {"source": "test://", "engine": no},
        "verify": {"bundle": no},
    }
    with pytest.raises(EdgeHybridError):
        getattr(edgehybrid, name)(**told.get(name, {"model": no}))
