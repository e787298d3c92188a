"""The gate: which budgets pass, and what a build that missed one is told to try."""

import inspect
import re
from dataclasses import replace

import pytest

from edgehybrid import findings, pipeline
from edgehybrid.errors import GateError
from edgehybrid.records import Drop, Look, Recipe, Report, Search
from tests.reporter import samples

RECIPE = Recipe("cmt_ti", "auto", "int8", "cpu", 1, 64, 1.0, 10, "photos", 8, "mse", "val", 1000, 0)
OPTIONS = {name.replace("_", "-") for name in inspect.signature(pipeline.build).parameters}


def losing(points: float, least: float, most: float) -> Report:
    """A report whose int8 loses so much, with this interval."""
    report = samples.labelled()
    drop = Drop(points, (least, most), 0.05, 40)
    return replace(report, rows=tuple(r if r.precision == "fp32" else replace(r, drop=drop) for r in report.rows))


def missed(report: Report, recipe: Recipe, budget: float = 0.5, *, dla: bool = False) -> GateError:
    with pytest.raises(GateError) as caught:
        findings.gate(report, budget, recipe, dla=dla)
    return caught.value


@pytest.mark.parametrize("budget", [None, 0.5, 0.8])
def test_an_upper_end_within_the_budget_passes(budget: float | None) -> None:
    findings.gate(losing(0.2, -0.1, 0.5), budget, RECIPE)


def test_a_missed_budget_is_told_the_remedies_that_are_left() -> None:
    open_, proven = losing(0.4, -0.1, 0.9), losing(0.9, 0.6, 1.2)
    every = ["more images", "--rounding optimized", "--precision mixed", "a larger --max-drop"]
    found = missed(open_, RECIPE)
    assert sorted(every, key=found.fix.index) == every
    assert "not shown to be within 0.5 points" in found.what
    assert "more images" not in missed(proven, RECIPE).fix
    assert "the drop is over 0.5 points" in missed(proven, RECIPE).what
    assert "--rounding" not in missed(open_, replace(RECIPE, rounding="optimized")).fix
    assert "--rounding" not in missed(open_, replace(RECIPE, ranges="calibration.json")).fix
    assert "mixed" not in missed(open_, RECIPE, budget=-0.5).fix  # which a search refuses
    assert "--precision fp16" in missed(proven, RECIPE, budget=-0.5).fix
    for precision in ("fp16", "fp32"):
        assert missed(proven, replace(RECIPE, precision=precision)).fix == "try a larger --max-drop"


def test_what_nvdla_cannot_take_is_not_named() -> None:
    fix = missed(losing(0.4, -0.1, 0.9), RECIPE, dla=True).fix
    assert fix == "try more images with --eval, or --precision fp16, or a larger --max-drop"


def test_a_search_that_found_nothing_still_has_remedies() -> None:
    drop = Drop(0.4, (-0.1, 0.9), 0.05, 40)
    search = Search(0.5, 69, (), 100.0, (Look(0, drop, passed=False),), False, "fisher", 128, "estimated")
    report = losing(0.4, -0.1, 0.9)
    rows = tuple(replace(r, precision="mixed") if r.precision == "int8" else r for r in report.rows)
    fix = missed(replace(report, rows=rows, search=search), replace(RECIPE, precision="mixed")).fix
    assert "--rounding optimized" in fix
    assert "--precision fp16" in fix
    assert "--precision mixed" not in fix


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32", "mixed"])
def test_every_option_that_is_named_exists(precision: str) -> None:
    fix = missed(losing(0.4, -0.1, 0.9), replace(RECIPE, precision=precision)).fix
    named = re.findall(r"--([a-z-]+)", fix)
    assert named
    assert set(named) <= OPTIONS
