"""Python callers may write paths as text, names as paths, and colours as numbers."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import edgehybrid
from edgehybrid.errors import EdgeHybridError, UsageError
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
    assert verb(np.array([0.5, 1]))[0] == "0.5,1.0"  # type: ignore[arg-type]
    assert verb(99)[0] == "99.0"  # type: ignore[arg-type]


def test_one_of_a_list_is_a_list_of_one() -> None:
    assert verb(merge="a.json") == ("cmt_ti", None, [Path("a.json")], "a", 1)  # type: ignore[arg-type]


def test_what_fits_is_passed_on() -> None:
    assert verb() == ("cmt_ti", None, None, "a", 1)
    assert verb("x", Path("y"), merge=[], count=3) == ("x", Path("y"), [], "a", 3)


def test_a_size_may_be_two_numbers_and_numbers_may_be_numpys() -> None:
    assert sized((384, 640)) == sized("384x640") == ("384x640", 1.0, False)
    assert sized([32, 32], share=1, loud=np.bool_(True)) == ("32x32", 1.0, True)  # type: ignore[arg-type]
    assert sized(np.int64(32), share=np.float32(0.5)) == (32, 0.5, False)  # type: ignore[arg-type]
    assert sized() == (None, 1.0, False)


@forgive
def sized(size: int | str | None = None, *, share: float = 1.0, loud: bool = False) -> tuple[object, ...]:
    """Says what it got."""
    return size, share, loud


@pytest.mark.parametrize(
    ("call", "what", "why"),
    [
        (lambda: verb(how="c"), "--how cannot be 'c'", "known: a, b"),
        (lambda: verb(how=None), "--how cannot be None", "known: a, b"),
        (lambda: verb(None), "model cannot be None", "found NoneType, needed text"),
        (lambda: verb(["0.5", 1]), "model cannot be ['0.5', 1]", "found list, needed text"),
        (lambda: verb("m", 3), "output cannot be 3", "found int, needed a path or None"),
        (lambda: verb(merge=[None]), "--merge cannot be None", "found NoneType, needed a path"),
        (lambda: verb(count="4"), "--count cannot be '4'", "found str, needed a whole number"),
        (lambda: verb(count=True), "--count cannot be True", "found bool, needed a whole number"),
        (lambda: verb(count=1.5), "--count cannot be 1.5", "found float, needed a whole number"),
        (lambda: sized(share="1"), "--share cannot be '1'", "found str, needed a number"),
        (lambda: sized(loud=1), "--loud cannot be 1", "found int, needed True or False"),
        (lambda: sized({}), "size cannot be {}", "found dict, needed a whole number or text or None"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call: Callable[[], object], what: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert (caught.value.what, caught.value.why) == (what, why)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("build", {"equalize": "foo"}),
        ("build", {"refine": "foo"}),
        ("build", {"rounding": "foo"}),
        ("build", {"flavor": "tensort"}),
        ("build", {"method": "foo"}),
        ("build", {"interpolation": "foo"}),
        ("build", {"batch": "1"}),
        ("build", {"num_calib": "4"}),
        ("build", {"model": None}),
        ("build", {"mean": np.array([0.5, 0.5])}),
        ("quantize", {"precision": "mixed"}),
        ("report", {"bundles": []}),
    ],
)
def test_bad_choices_are_refused_before_any_work(name: str, told: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        getattr(edgehybrid, name)(**told)


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
